import assert from 'node:assert/strict';
import { webcrypto } from 'node:crypto';
import { test } from 'node:test';

import { Swarm } from '../src/swarm.js';
import { stopClock } from './timers.js';

// Node.js 18 has it under another name.
globalThis.crypto ??= webcrypto;

const sockets = [];
const connections = [];

globalThis.WebSocket = class {
  static OPEN = 1;
  readyState = 1;
  constructor() { sockets.push(this); }
  send() {}
  close() { this.readyState = 3; }
  hear(message) { this.onmessage({ data: JSON.stringify(message) }); }
};

globalThis.RTCPeerConnection = class {
  closed = false;
  constructor() { connections.push(this); }
  createDataChannel() {
    this.dc = { readyState: 'connecting', send() {}, close() {} };
    return this.dc;
  }
  async createOffer() {}
  async setLocalDescription() { this.localDescription = { type: 'offer', sdp: '' }; }
  close() { this.closed = true; }
  open() {
    this.dc.readyState = 'open';
    this.dc.onopen();
  }
};

/** Enters under `ownId`, is given a box by `boxId`, and opens a channel to it. */
function meet(ownId, boxId) {
  const socket = sockets.at(-1);
  socket.hear({ action: 'accept', peer_id: ownId, live: true });
  socket.hear({ action: 'connect', to_peer_id: boxId, initiator: true });
  const connection = connections.at(-1);
  connection.open();
  return connection;
}

test('channels survive the loss of the server until its successor brings others', (t) => {
  const clock = stopClock(t);
  const swarm = new Swarm('ws://127.0.0.1/', 'news', null, () => {});
  swarm.start();
  const one = meet('page-1', 'box-1');
  const two = meet('page-1', 'other-box-1');
  assert.deepEqual(swarm.ids, ['page-1', 'page-1']);

  sockets.at(-1).onclose();
  assert.equal(swarm.connected, 2);
  clock.tick(1000);
  assert.equal(swarm.connected, 2);

  // The same box, which has entered anew as well.
  meet('page-2', 'box-2');
  assert.deepEqual(swarm.ids, ['page-2']);
  assert.ok(one.closed && two.closed);
  swarm.leave();
  assert.equal(swarm.connected, 0);
});

test('somebody who does not come is waited for only so long', async (t) => {
  const clock = stopClock(t);
  const swarm = new Swarm('ws://127.0.0.1/', 'news', null, () => {});
  swarm.start();
  const seen = [];
  const wait = (ms) => swarm.whenOpen(ms, new AbortController().signal).then(() => seen.push(ms));
  const [short, long] = [wait(1000), wait(1500)];
  clock.tick(1000);
  await short;
  assert.deepEqual(seen, [1000]);
  meet('page-1', 'box-1');
  await long;
  assert.deepEqual(seen, [1000, 1500]);
  swarm.leave();
});
