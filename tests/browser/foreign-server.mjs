// A signalling server that is not ours: written from the protocol's description alone (protocol.md
// sections 2 and 3), in the manner of the first generation. Signals are relayed as they are, the
// peer with the highest level is everybody's parent, and the parent is told before the child.
//
//   node foreign-server.mjs --port 12035 --ids integer|text
//
// Prints what it hears, one line a message.

import { randomUUID } from 'node:crypto';

import { WebSocketServer } from 'ws';

import { options } from './chromium.mjs';

const { port, ids } = options({ port: 12035, ids: 'text' });
const PING_EVERY_MS = 10_000;

/** Everybody who has entered: { id, channel, level, parent, failed, socket }. */
const peers = new Set();
let lastId = Date.now();

const newId = () => (ids === 'integer' ? (lastId += 1) : randomUUID());
const send = (peer, message) => peer.socket.send(JSON.stringify(message));
const byId = (id) => [...peers].find((peer) => peer.id === id);

/** Gives this peer the highest peer above it, if it has no parent. */
function findParent(child) {
  if (child.parent) return;
  const above = [...peers].filter((peer) => peer.channel === child.channel && peer.level > child.level
    && !child.failed.has(peer.id));
  const parent = above.sort((one, other) => other.level - one.level)[0];
  if (!parent) return;
  child.parent = parent;
  // A parent of the first generation drops signals that come before its `connect`.
  send(parent, { action: 'connect', to_peer_id: child.id, initiator: false });
  send(child, { action: 'connect', to_peer_id: parent.id, initiator: true });
}

function orphan(lost) {
  const children = [...peers].filter((peer) => lost(peer.parent, peer));
  for (const child of children) child.parent = null;
  children.forEach(findParent);
}

const actions = {
  enter(peer, { channel }) {
    if (typeof channel !== 'string') return send(peer, { action: 'reject', reason: 'no channel' });
    Object.assign(peer, { id: newId(), channel });
    peers.add(peer);
    send(peer, { action: 'accept', live: true, peer_id: peer.id });
    findParent(peer);
  },
  signal(peer, { to_peer_id: to, data }) {
    const other = byId(to);
    if (other) send(other, { action: 'signal', from_peer_id: peer.id, data });
  },
  level(peer, { level }) {
    peer.level = Number(level) || 0;
    for (const other of peers) findParent(other);
  },
  statistics: (peer, message) => actions.level(peer, message),
  dc_failed(peer, { dc_id: dcId }) {
    // Both ids in either order: text without a separator or with one, integers added up.
    const names = (one, other) => [one + other, other + one, `${one}-${other}`, `${other}-${one}`];
    const pair = (parent, child) => parent && [parent, child].includes(peer) && names(parent.id, child.id).includes(dcId);
    for (const child of peers) if (pair(child.parent, child)) child.failed.add(child.parent.id);
    orphan(pair);
  },
  dc_closed: (peer, message) => actions.dc_failed(peer, message),
  leave(peer) {
    peers.delete(peer);
    orphan((parent) => parent === peer);
  },
};

const server = new WebSocketServer({ port, host: '127.0.0.1', maxPayload: 64 * 1024 });
server.on('listening', () => console.log(`listening on ${port}`));
server.on('connection', (socket) => {
  const peer = { socket, id: null, channel: null, level: 0, parent: null, failed: new Set(), alive: true };
  socket.on('pong', () => { peer.alive = true; });
  const pinging = setInterval(() => {
    if (!peer.alive) return socket.terminate();
    peer.alive = false;
    socket.ping();
  }, PING_EVERY_MS);
  socket.on('message', (text) => {
    const message = JSON.parse(text);
    // The level report has no action.
    const action = message.action ?? ('level' in message ? 'level' : '');
    if (action !== 'signal') console.log(`${peer.id} ${action} ${message.level ?? message.dc_id ?? ''}`);
    actions[action]?.(peer, message);
  });
  socket.on('error', () => socket.terminate());
  socket.on('close', () => {
    clearInterval(pinging);
    actions.leave(peer);
  });
});
