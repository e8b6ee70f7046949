// The fragment loader for hls.js: asks the box first, and takes plain HTTP as soon as waiting for
// the box could hurt. Playback is never worse than without a box.

import { Refusal } from './segment-channel.js';

// What field clients wait, and what the box reckons with.
const LONGEST_MS = 2000;
// A box that has the segment answers within this, so it is worth asking even when time is short.
const SHORTEST_MS = 250;
// Before playback nobody is watching yet, and a box answers within this even if a packet of its answer
// is lost and comes again by the timer of SCTP, after 1 s …
const START_MS = 1500;
// … of which this is for somebody to come: where there is no box, it is what that costs a viewer …
const COMING_MS = 1000;
// … but all the waiting before playback together is no longer than this.
const START_TOTAL_MS = 2500;

/**
 * How long the box may take for a segment, in ms. `ahead`: seconds in the player's buffer;
 * `httpMs`: how long a segment takes over HTTP; `startedMs`: null while playing, before that the
 * time since the first segment was asked for.
 */
export function deadline({ ahead, httpMs, startedMs }) {
  if (startedMs !== null) return Math.min(START_MS, Math.max(0, START_TOTAL_MS - startedMs));
  // Enough buffer has to be left for HTTP, at twice its usual time.
  const reserve = Math.min(4000, Math.max(500, 2 * httpMs));
  return Math.min(LONGEST_MS, Math.max(SHORTEST_MS, ahead * 1000 - reserve));
}

/** How long a segment takes over HTTP, from those that were: the mean, recent ones weigh more. */
export class HttpTime {
  ms = 500;
  add(ms) {
    this.ms += (ms - this.ms) * 0.3;
  }
}

/**
 * What a box is asked for: a segment by its URI and number, of which the number says which byte range
 * is meant, or an initialization section by its URI alone. Undefined for what has no such name: a
 * part of a segment, or a byte range without a number.
 */
export function nameOf({ frag, part, rangeEnd }) {
  if (!frag?.relurl || part) return undefined;
  if (Number.isInteger(frag.sn)) return { url: frag.relurl, sn: frag.sn };
  return frag.sn === 'initSegment' && !rangeEnd ? { url: frag.relurl } : undefined;
}

/**
 * The segment from one of the swarm's open channels before `signal` aborts; LACK from one makes
 * it ask the next. Rejects with the last Refusal, 'no-peer' if there was nobody to ask.
 */
export async function fromSwarm(swarm, wanted, signal) {
  const tried = new Set();
  let refusal = new Refusal('no-peer');
  while (!signal.aborted) {
    const channel = swarm.pick(tried);
    if (!channel) throw refusal;
    tried.add(channel);
    try {
      return await channel.request(wanted, signal);
    } catch (error) {
      refusal = error;
    }
  }
  throw refusal;
}

/**
 * A loader class for hls.js (`fLoader`) on top of its own HTTP loader `HttpLoader`.
 * `swarm` may be null; `player`: { ahead() in seconds, playing() };
 * `onSegment({ sn, url, source: 'p2p' | 'http', reason, bytes, ms, ok })`.
 */
export function createLoader(HttpLoader, swarm, player, onSegment) {
  const httpTime = new HttpTime();
  let begun = null;

  // loadInternal and abortInternal are how hls.js' own loaders differ from each other
  // (utils/base-loader.ts); a test holds the installed version to it.
  return class BoxFirstLoader extends HttpLoader {
    loadInternal() {
      const now = performance.now();
      begun ??= now;
      const wanted = nameOf(this.context);
      if (!wanted) return super.loadInternal();
      if (!swarm) return this.#http('no-signal', now);
      const ms = deadline({
        ahead: player.ahead(),
        httpMs: httpTime.ms,
        startedMs: player.playing() ? null : now - begun,
      });
      this.#box(wanted, ms, now);
    }

    abortInternal() {
      this.asking?.abort('aborted');
      super.abortInternal();
    }

    async #box(wanted, ms, asked) {
      const { frag, url, rangeStart, rangeEnd } = this.context;
      const asking = (this.asking = new AbortController());
      const timer = setTimeout(() => asking.abort('timeout'), ms);
      let answer = null;
      let reason = null;
      try {
        // Only before playback is it worth waiting for somebody to come.
        if (!player.playing() && swarm.hopeful) await swarm.whenOpen(Math.min(ms, COMING_MS), asking.signal);
        answer = await fromSwarm(swarm, wanted, asking.signal);
        // A holder that knows nothing of ranges, or means another one.
        const size = rangeEnd ? rangeEnd - rangeStart : answer.data.byteLength;
        if (answer.data.byteLength !== size) {
          answer = null;
          reason = 'size';
        }
      } catch (error) {
        reason = error.reason ?? 'broken';
      }
      clearTimeout(timer);
      this.asking = null;
      // hls.js has dropped this load meanwhile (destroy() takes its callbacks away).
      if (asking.signal.reason === 'aborted' || !this.callbacks) return;
      if (!answer) return this.#http(reason, asked);

      const { data, first } = answer;
      const end = performance.now();
      const { stats, context } = this;
      stats.loading.first = first;
      stats.loading.end = end;
      stats.loaded = stats.total = data.byteLength;
      stats.bwEstimate = (data.byteLength * 8000) / Math.max(1, end - first);
      onSegment({ sn: frag.sn, url, source: 'p2p', reason: null, bytes: data.byteLength, ms: end - asked, ok: true });
      this.callbacks.onSuccess({ url, data, code: 200 }, stats, context, null);
    }

    #http(reason, asked) {
      const { context, stats } = this;
      const { frag, url } = context;
      const begunHttp = performance.now();
      // The bandwidth that hls.js estimates is that of HTTP alone.
      stats.loading.start = begunHttp;
      const finish = (callback, ok) => (...args) => {
        const now = performance.now();
        if (ok) httpTime.add(now - begunHttp);
        onSegment({ sn: frag.sn, url, source: 'http', reason, bytes: ok ? stats.loaded : 0, ms: now - asked, ok });
        callback(...args);
      };
      const { onSuccess, onError, onTimeout } = this.callbacks;
      this.callbacks = {
        ...this.callbacks,
        onSuccess: finish(onSuccess, true),
        onError: finish(onError, false),
        onTimeout: finish(onTimeout, false),
      };
      super.loadInternal();
    }
  };
}
