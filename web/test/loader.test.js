import assert from 'node:assert/strict';
import { test } from 'node:test';

import { createLoader, deadline, fromSwarm, HttpTime, nameOf } from '../src/loader.js';
import { Refusal } from '../src/segment-channel.js';
import { stopClock } from './timers.js';

const tick = () => new Promise((resolve) => setImmediate(resolve));

test('with a full buffer the box has 2 s and no more', () => {
  assert.equal(deadline({ ahead: 30, httpMs: 300, startedMs: null }), 2000);
  assert.equal(deadline({ ahead: 5, httpMs: 300, startedMs: null }), 2000);
});

test('the shorter the buffer, the sooner HTTP', () => {
  assert.equal(deadline({ ahead: 2, httpMs: 300, startedMs: null }), 1400);
  assert.equal(deadline({ ahead: 1.5, httpMs: 100, startedMs: null }), 1000);
  // A box that has the segment is quicker than any origin, so it is asked even then.
  assert.equal(deadline({ ahead: 0, httpMs: 300, startedMs: null }), 250);
});

test('a slow origin is given more time, but never so much that the box is not asked', () => {
  assert.equal(deadline({ ahead: 4, httpMs: 1500, startedMs: null }), 1000);
  assert.equal(deadline({ ahead: 4, httpMs: 60_000, startedMs: null }), 250);
  assert.equal(deadline({ ahead: 6, httpMs: 60_000, startedMs: null }), 2000);
});

test('before playback the box has 1.5 s, and 2.5 s altogether', () => {
  assert.equal(deadline({ ahead: 0, httpMs: 300, startedMs: 0 }), 1500);
  assert.equal(deadline({ ahead: 0, httpMs: 300, startedMs: 2000 }), 500);
  assert.equal(deadline({ ahead: 0, httpMs: 300, startedMs: 60_000 }), 0);
});

test('the time over HTTP follows what is seen', () => {
  const time = new HttpTime();
  for (let i = 0; i < 30; i++) time.add(2000);
  assert.ok(Math.abs(time.ms - 2000) < 10, String(time.ms));
});

test('segments are asked for by URI and number, initialization sections by URI alone', () => {
  const frag = { relurl: 'seg_1.ts', sn: 1 };
  const init = { relurl: 'init.mp4', sn: 'initSegment' };
  assert.deepEqual(nameOf({ frag, part: null }), { url: 'seg_1.ts', sn: 1 });
  assert.deepEqual(nameOf({ frag, rangeStart: 0, rangeEnd: 100 }), { url: 'seg_1.ts', sn: 1 });
  assert.deepEqual(nameOf({ frag: init }), { url: 'init.mp4' });
  // Which part is meant, nothing in the name would say.
  assert.equal(nameOf({ frag: init, rangeStart: 0, rangeEnd: 100 }), undefined);
  assert.equal(nameOf({ frag, part: {} }), undefined);
});

/** A swarm of channels, each of which answers with what its function returns. */
function swarmOf(...answers) {
  const channels = answers.map((request) => ({ request }));
  return {
    hopeful: true,
    pick: (tried) => channels.find((channel) => !tried.has(channel)),
    whenOpen: () => Promise.resolve(),
  };
}
const lack = () => Promise.reject(new Refusal('lack'));

test('after LACK the next parent is asked at once', async () => {
  const answer = { data: new ArrayBuffer(3), first: 1 };
  const swarm = swarmOf(lack, () => Promise.resolve(answer));
  assert.equal(await fromSwarm(swarm, {}, new AbortController().signal), answer);
});

test('when everybody lacks the segment, that is the reason', async () => {
  await assert.rejects(fromSwarm(swarmOf(lack, lack), {}, new AbortController().signal), { reason: 'lack' });
  await assert.rejects(fromSwarm(swarmOf(), {}, new AbortController().signal), { reason: 'no-peer' });
});

/** What createLoader needs of hls.js' own loader: utils/base-loader.ts in short. */
class FakeHttpLoader {
  stats = { loading: { start: 0, first: 0, end: 0 }, loaded: 0, total: 0 };
  fetched = 0;
  load(context, config, callbacks) {
    this.stats.loading.start = performance.now();
    Object.assign(this, { context, config, callbacks });
    this.loadInternal();
  }
  loadInternal() {
    this.fetched += 1;
    this.stats.loaded = 10;
    this.callbacks.onSuccess({ data: new ArrayBuffer(10) }, this.stats, this.context, null);
  }
  abortInternal() {
    this.aborted = true;
  }
  abort() {
    this.abortInternal();
    this.callbacks?.onAbort?.();
  }
  destroy() {
    this.callbacks = null;
    this.abortInternal();
  }
}

const context = { url: 'http://o/a/seg_1.ts', frag: { relurl: 'seg_1.ts', sn: 1 }, part: null };

function loaderFor(swarm, { playing = true, ahead = 10 } = {}) {
  const segments = [];
  const Loader = createLoader(FakeHttpLoader, swarm, { playing: () => playing, ahead: () => ahead }, (s) => segments.push(s));
  const loader = new Loader({});
  const answers = [];
  const callbacks = {
    onSuccess: (response) => answers.push(response.data.byteLength),
    onAbort: () => answers.push('abort'),
    onError: () => answers.push('error'),
    onTimeout: () => answers.push('timeout'),
  };
  return { loader, callbacks, segments, answers };
}

test('a segment from the box never touches HTTP', async () => {
  const wanted = [];
  const swarm = swarmOf((what) => {
    wanted.push(what);
    return Promise.resolve({ data: new ArrayBuffer(5), first: performance.now() });
  });
  const { loader, callbacks, segments, answers } = loaderFor(swarm);
  loader.load(context, {}, callbacks);
  await tick();
  assert.deepEqual(wanted, [{ url: 'seg_1.ts', sn: 1 }]);
  assert.deepEqual(answers, [5]);
  assert.equal(loader.fetched, 0);
  assert.equal(loader.stats.loaded, 5);
  assert.equal(segments[0].source, 'p2p');
});

test('an answer of another length than the byte range is not played', async () => {
  const swarm = swarmOf(() => Promise.resolve({ data: new ArrayBuffer(50), first: 1 }));
  const { loader, callbacks, segments, answers } = loaderFor(swarm);
  loader.load({ ...context, rangeStart: 20, rangeEnd: 30 }, {}, callbacks);
  await tick();
  assert.deepEqual(answers, [10]);
  assert.equal(segments[0].reason, 'size');
});

test('LACK, and nobody to ask, go to HTTP at once', async () => {
  for (const [swarm, reason] of [[swarmOf(lack), 'lack'], [swarmOf(), 'no-peer'], [null, 'no-signal']]) {
    const { loader, callbacks, segments, answers } = loaderFor(swarm);
    loader.load(context, {}, callbacks);
    await tick();
    assert.deepEqual(answers, [10]);
    assert.equal(segments[0].source, 'http');
    assert.equal(segments[0].reason, reason);
  }
});

test('a box that does not answer costs its deadline and nothing more', async (t) => {
  const clock = stopClock(t);
  const swarm = swarmOf(
    (_, signal) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Refusal(signal.reason)))),
  );
  const { loader, callbacks, segments, answers } = loaderFor(swarm);
  loader.load(context, {}, callbacks);
  clock.tick(1999);
  await tick();
  assert.deepEqual(answers, []);
  clock.tick(1);
  await tick();
  assert.deepEqual(answers, [10]);
  assert.equal(segments[0].reason, 'timeout');
});

test('an aborted load neither answers nor goes to HTTP', async () => {
  for (const end of ['abort', 'destroy']) {
    const swarm = swarmOf(
      (_, signal) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Refusal(signal.reason)))),
    );
    const { loader, callbacks, answers } = loaderFor(swarm);
    loader.load(context, {}, callbacks);
    await tick();
    loader[end]();
    await tick();
    assert.deepEqual(answers, end === 'abort' ? ['abort'] : []);
    assert.equal(loader.fetched, 0);
  }
});

test('the installed hls.js has the two methods that this loader replaces', async () => {
  globalThis.self ??= globalThis;
  const { default: Hls } = await import('hls.js');
  const loader = Hls.DefaultConfig.loader.prototype;
  assert.equal(typeof loader.loadInternal, 'function');
  assert.equal(typeof loader.abortInternal, 'function');
});
