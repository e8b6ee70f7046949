import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Refusal, SegmentChannel } from '../src/segment-channel.js';
import { stopClock } from './timers.js';

/** A data channel whose other end is the test. */
class FakeDataChannel {
  readyState = 'open';
  sent = [];
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close() {
    this.readyState = 'closed';
  }
  hear(message) {
    this.onmessage?.({ data: message instanceof ArrayBuffer ? message : JSON.stringify(message) });
  }
}

const packet = (...bytes) => Uint8Array.from(bytes).buffer;
const wanted = { url: 'seg_7.ts?token=a%2Fb', sn: 7 };
const header = (fields = {}) => ({ event: 'BINARY', attachments: 2, url: wanted.url, sn: 7, size: 5, current: 9, ...fields });
const refusal = (reason) => (error) => error instanceof Refusal && error.reason === reason;

function open(onClose) {
  const dc = new FakeDataChannel();
  return { dc, channel: new SegmentChannel(dc, onClose) };
}

test('a segment is joined from its packets in their order', async () => {
  const { dc, channel } = open();
  const asked = channel.request(wanted);
  assert.deepEqual(dc.sent, [{ event: 'REQUEST', ...wanted }]);
  assert.equal(channel.idle, false);
  dc.hear(header());
  dc.hear(packet(1, 2, 3));
  dc.hear(packet(4, 5));
  assert.deepEqual([...new Uint8Array((await asked).data)], [1, 2, 3, 4, 5]);
  assert.equal(channel.idle, true);
});

test('a wrong sn and unknown fields and messages do no harm', async () => {
  const { dc, channel } = open();
  const asked = channel.request(wanted);
  dc.hear({ event: 'TRANSITION', x: 1 });
  dc.hear(header({ sn: 99, more: true, attachments: 1, size: 1 }));
  dc.hear(packet(1));
  assert.equal((await asked).data.byteLength, 1);
});

test('requests go out one after the other', async () => {
  const { dc, channel } = open();
  const first = channel.request(wanted);
  const second = channel.request({ url: 'b.ts', sn: 8 });
  assert.equal(dc.sent.length, 1);
  dc.hear({ event: 'LACK', url: wanted.url, sn: 7 });
  await assert.rejects(first, refusal('lack'));
  assert.deepEqual(dc.sent[1], { event: 'REQUEST', url: 'b.ts', sn: 8 });
  dc.hear(header({ url: 'b.ts', attachments: 1, size: 1 }));
  dc.hear(packet(1));
  await second;
});

test('a LACK for something else is not the answer', async () => {
  const { dc, channel } = open();
  const asked = channel.request(wanted);
  dc.hear({ event: 'LACK', url: 'other.ts', sn: 7 });
  dc.hear(header({ attachments: 1, size: 1 }));
  dc.hear(packet(1));
  await asked;
});

test('an answer that comes too late is thrown away and the channel goes on', async () => {
  const { dc, channel } = open();
  const late = new AbortController();
  const asked = channel.request(wanted, late.signal);
  late.abort('timeout');
  await assert.rejects(asked, refusal('timeout'));
  await assert.rejects(channel.request({ url: 'b.ts', sn: 8 }), refusal('busy'), 'the old answer is still to come');
  assert.equal(dc.sent.length, 1);
  dc.hear(header());
  const next = channel.request({ url: 'b.ts', sn: 8 });
  assert.equal(dc.sent.length, 1, 'one at a time');
  dc.hear(packet(1, 2, 3));
  dc.hear(packet(4, 5));
  assert.equal(dc.sent[1].url, 'b.ts');
  dc.hear(header({ url: 'b.ts', attachments: 1, size: 1 }));
  dc.hear(packet(9));
  assert.deepEqual([...new Uint8Array((await next).data)], [9]);
});

test('a request that was given up while it waited is never sent', async () => {
  const { dc, channel } = open();
  const first = channel.request(wanted);
  const gone = new AbortController();
  const second = channel.request({ url: 'b.ts', sn: 8 }, gone.signal);
  gone.abort('timeout');
  await assert.rejects(second, refusal('timeout'));
  dc.hear({ event: 'LACK', url: wanted.url });
  await assert.rejects(first, refusal('lack'));
  assert.equal(dc.sent.length, 1);
});

for (const [what, messages] of [
  ['more bytes than announced', [header(), packet(1, 2, 3), packet(4, 5, 6)]],
  ['fewer bytes than announced', [header(), packet(1), packet(2)]],
  ['a packet without a header', [packet(1)]],
  ['a header for another url', [header({ url: 'other.ts' })]],
  ['a second header inside a transfer', [header(), packet(1), header()]],
  ['a size beyond all reason', [header({ size: 1e12 })]],
  ['an empty segment', [header({ size: 0, attachments: 0 })]],
  ['a number of packets that is none', [header({ attachments: '2' })]],
  ['an ERROR', [{ event: 'ERROR' }]],
]) {
  test(`${what} closes the channel`, async () => {
    const closed = [];
    const { dc, channel } = open((reason) => closed.push(reason));
    const asked = channel.request(wanted);
    const waiting = channel.request({ url: 'b.ts', sn: 8 });
    for (const message of messages) dc.hear(message);
    await assert.rejects(asked, refusal('broken'));
    await assert.rejects(waiting, refusal('broken'));
    assert.deepEqual(closed, ['broken']);
    assert.equal(dc.readyState, 'closed');
    await assert.rejects(channel.request(wanted), refusal('closed'));
  });
}

test('a box that says nothing for long is given up, one that still sends is not', async (t) => {
  const clock = stopClock(t);
  const closed = [];
  const { dc, channel } = open((reason) => closed.push(reason));
  const asked = channel.request(wanted);
  clock.tick(7000);
  dc.hear(header());
  clock.tick(7000);
  assert.deepEqual(closed, []);
  clock.tick(1000);
  await assert.rejects(asked, refusal('broken'));
  assert.deepEqual(closed, ['broken']);
});

test('KEEPALIVE is answered, also inside a transfer', async () => {
  const { dc, channel } = open();
  const asked = channel.request(wanted);
  dc.hear(header());
  dc.hear(packet(1, 2, 3));
  dc.hear({ event: 'KEEPALIVE', current: 9 });
  dc.hear(packet(4, 5));
  await asked;
  dc.hear({ event: 'KEEPALIVE', current: 9 });
  assert.deepEqual(dc.sent.slice(1), [
    { event: 'KEEPALIVE-ACK', current: 0 },
    { event: 'KEEPALIVE-ACK', current: 7 },
  ]);
});

test('CLOSE from the other end ends what is waiting', async () => {
  const { dc, channel } = open();
  const asked = channel.request(wanted);
  dc.hear({ event: 'CLOSE' });
  await assert.rejects(asked, refusal('closed'));
});

test('closing says so to the other end, once', () => {
  const { dc, channel } = open();
  channel.close();
  channel.close();
  assert.deepEqual(dc.sent, [{ event: 'CLOSE' }]);
});
