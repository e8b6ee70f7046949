import FakeTimers from '@sinonjs/fake-timers';

/** A clock that stands until it is told to `tick`, for the rest of the test `t`. (Of Node.js's own that of version 18,
 * which Debian 12 has, takes the wrong timers away.) */
export function stopClock(t) {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
  t.after(() => clock.uninstall());
  return clock;
}
