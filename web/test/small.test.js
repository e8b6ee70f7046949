import assert from 'node:assert/strict';
import { test } from 'node:test';

import { backoff } from '../src/backoff.js';
import { pickChannel, signalUrl } from '../src/config.js';
import { disconnected } from '../src/signal.js';
import { Stalls } from '../src/stalls.js';
import { bytesText, Tally } from '../src/tally.js';

const location = new URL('http://192.168.1.20:8080/watch?channel=news');

test('signal_port means the host by which the viewer reached the page', () => {
  assert.equal(signalUrl({ signal_port: 12035 }, location), 'ws://192.168.1.20:12035/');
  assert.equal(signalUrl({ signal_port: 12035 }, new URL('https://box.lan/watch')), 'wss://box.lan:12035/');
});

test('signal_tls_port means the same host, always with TLS', () => {
  assert.equal(signalUrl({ signal_tls_port: 12035 }, location), 'wss://192.168.1.20:12035/');
});

test('signal is an absolute URL or a path of the same host', () => {
  assert.equal(signalUrl({ signal: 'wss://tracker.example.com/ws' }, location), 'wss://tracker.example.com/ws');
  assert.equal(signalUrl({ signal: '/signal' }, location), 'ws://192.168.1.20:8080/signal');
  assert.equal(signalUrl({}, location), null);
});

test('the channel that is asked for is taken, otherwise the first', () => {
  const config = { channels: [{ name: 'a' }, { name: 'b' }] };
  assert.equal(pickChannel(config, '?channel=b').name, 'b');
  assert.equal(pickChannel(config, '?channel=gone').name, 'a');
  assert.equal(pickChannel({}, ''), undefined);
});

test('the share counts the segments that arrived, whatever they weigh', () => {
  const tally = new Tally();
  assert.equal(tally.share, null);
  for (let sn = 0; sn < 3; sn++) tally.add({ sn, source: 'p2p', reason: null, bytes: 1000, ms: 5, ok: true });
  tally.add({ sn: 3, source: 'http', reason: 'lack', bytes: 9000, ms: 50, ok: true });
  tally.add({ sn: 4, source: 'http', reason: 'lack', bytes: 0, ms: 50, ok: false });
  assert.equal(tally.share, 75);
  assert.equal(tally.segments, 4);
  assert.equal(tally.failed, 1);
  assert.deepEqual(tally.reasons, { lack: 1 });
  assert.deepEqual([tally.p2pBytes, tally.httpBytes], [3000, 9000]);
});

test('the strip is bounded', () => {
  const tally = new Tally();
  for (let sn = 0; sn < 100; sn++) tally.add({ sn, source: 'p2p', bytes: 1, ms: 1, ok: true });
  assert.equal(tally.recent.length, 40);
  assert.equal(tally.recent[0].sn, 60);
});

test('one stall is counted once, however often it is announced', () => {
  const stalls = new Stalls();
  stalls.begin(1000);
  stalls.begin(1500);
  assert.equal(stalls.countAt(2000), 1, 'also while it lasts');
  stalls.end(3000);
  stalls.end(3500);
  assert.deepEqual([stalls.count, stalls.totalMs], [1, 2000]);
});

test('a hitch of a few frames is not a stall', () => {
  const stalls = new Stalls();
  stalls.begin(1000);
  assert.equal(stalls.countAt(1050), 0);
  stalls.end(1080);
  assert.equal(stalls.count, 0);
});

test('waiting grows up to 30 s and is spread by chance', () => {
  assert.equal(backoff(0, 0), 1000);
  assert.equal(backoff(2, 0), 4000);
  assert.equal(backoff(99, 0), 30_000);
  assert.equal(backoff(2, 0.5), 3000);
});

test('disconnect names its peers in several forms', () => {
  assert.deepEqual(disconnected({ to_peer_id: 5 }), [5]);
  assert.deepEqual(disconnected({ peers: [{ peer_id: 'a' }, 'b'] }), ['a', 'b']);
  assert.equal(disconnected({}), null);
});

test('bytes are written as a person reads them', () => {
  assert.equal(bytesText(812_400), '812 kB');
  assert.equal(bytesText(12_345_678), '12.3 MB');
  assert.equal(bytesText(2_500_000_000), '2.50 GB');
});
