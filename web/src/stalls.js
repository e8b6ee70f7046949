// Rebuffering as the viewer feels it: the picture stands still though it should run.

// Where two pieces of media meet, a browser may say `waiting` for a frame or two.
const FELT_MS = 120;

export class Stalls {
  count = 0;
  totalMs = 0;
  #since = null;

  /** Something said that playback waits for media (`waiting`, or hls.js' bufferStalledError). */
  begin(now) {
    this.#since ??= now;
  }

  /** Playback runs, or it is not supposed to run: paused, seeking, ended. */
  end(now) {
    const ms = this.#since === null ? 0 : now - this.#since;
    this.#since = null;
    if (ms < FELT_MS) return;
    this.count += 1;
    this.totalMs += ms;
  }

  /** The number of stalls, the present one included. */
  countAt(now) {
    const present = this.#since !== null && now - this.#since >= FELT_MS;
    return this.count + (present ? 1 : 0);
  }
}
