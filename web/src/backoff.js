// How long to wait before trying again: 1 s, 2 s, 4 s … up to 30 s, each shortened by chance by up
// to a half, so that the viewers of a box that restarts do not all come back in the same moment.

const FIRST_MS = 1000;
const LONGEST_MS = 30_000;

/** Milliseconds before attempt number `attempt` + 1; `random` is in [0, 1). */
export function backoff(attempt, random = Math.random()) {
  const full = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempt, 10));
  return full * (1 - random / 2);
}
