// A channel in a bad hour: its signalling server is killed and started again at random, viewers come
// and go, one of its two boxes dies and may come back. Nobody's picture may stand still, nothing may
// grow.
//
//   node chaos.mjs REPOSITORY --seconds 300 --seed 1
//
// The seed decides what happens when; the last CALM_S seconds are quiet, so that everybody has to be
// served by a box again.

import { readdir, readFile } from 'node:fs/promises';

import { launch, options, sleep, verdict } from './chromium.mjs';
import { Box, end, freePort, liveOrigin, program, start, text, until } from './stage.mjs';

const { seconds, seed } = options({ seconds: 300, seed: 1 });

const STEADY = 3;
const PASSING = 2;
// Where what was killed has come back, viewers find it again within this: their own back-off and
// the box's, after an outage of OUTAGE_MS.
const CALM_S = 25;
const OUTAGE_MS = [1000, 12_000];
const UPTIME_MS = [8000, 25_000];
const VISIT_MS = [8000, 20_000];
const SAMPLE_MS = 1000;
// A process that has just started is not what it will be: connections, first segments.
const WARM_UP_MS = 15_000;
// Of the median of the second half over that of the first: a visitor more or less, a reload of the
// playlist, a freed page that the allocator keeps; threads that write and unlink files come when
// several are wanted at once, and stay for 10 s.
const MAY_GROW = {
  'anon MiB': (before) => before * 1.15 + 3,
  fds: (before) => before + 6,
  threads: (before) => before + 8,
  peers: (before) => before + 2,
};

/** Mulberry32: small, and the same everywhere. */
function generator(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
// One each, so that what one does not disturb the dice of the others.
const dice = Array.from({ length: 2 + PASSING }, (_, index) => generator(seed * 1000 + index));
const between = (random, [least, most]) => least + random() * (most - least);

const began = Date.now();
const elapsed = () => (Date.now() - began) / 1000;
const say = (what) => console.log(`${elapsed().toFixed(1).padStart(6)} s  ${what}`);
const failures = [];
const expect = (condition, failure) => { if (!condition) failures.push(failure); };
const median = (numbers) => [...numbers].sort((one, other) => one - other)[numbers.length >> 1];

/** The signalling server alone, always at the same address. */
class Server {
  child = null;
  name = 'server';

  async start() {
    this.port ??= await freePort();
    this.child = start(program, ['signal', '--listen', `127.0.0.1:${this.port}`]);
    await until('the signalling server listens', 10, () => this.child.output.includes('signalling at'));
  }

  async kill() {
    await end(this.child, 'SIGKILL');
    this.child = null;
  }
}

/** What the processes hold, over time: { name, half, at, values }. */
class Samples {
  #taken = [];
  #since = new Map();

  async take(subject, half) {
    const pid = subject.child?.pid;
    if (!pid) return;
    if (this.#since.get(subject.name)?.pid !== pid) this.#since.set(subject.name, { pid, at: Date.now() });
    try {
      const status = await readFile(`/proc/${pid}/status`, 'utf8');
      const number = (name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)[1]);
      const values = {
        'anon MiB': number('RssAnon') / 1024,
        fds: (await readdir(`/proc/${pid}/fd`)).length,
        threads: number('Threads'),
      };
      if (subject.status) values.peers = (await subject.status()).peers.length;
      const isWarm = Date.now() - this.#since.get(subject.name).at > WARM_UP_MS;
      if (isWarm) this.#taken.push({ name: subject.name, half, values });
    } catch {
      // It was killed meanwhile.
    }
  }

  /**
   * One row for each process and value: the medians of both halves. A process that lives through
   * the whole run has to have been seen in both.
   */
  compare(name, livesOn) {
    return Object.entries(MAY_GROW).flatMap(([what, limit]) => {
      const [before, after] = [1, 2].map((half) => this.#taken
        .filter((sample) => sample.name === name && sample.half === half && what in sample.values)
        .map((sample) => sample.values[what]));
      if (!before.length || !after.length) {
        expect(!livesOn, `${name}: ${what} was not seen in both halves`);
        return [];
      }
      const [first, second] = [median(before), median(after)];
      expect(second <= limit(first), `${name}: ${what} grew from ${first.toFixed(1)} to ${second.toFixed(1)}`);
      return [{
        process: name, what, samples: before.length + after.length, 'first half': first.toFixed(1),
        'second half': second.toFixed(1), 'at most': limit(first).toFixed(1), highest: Math.max(...before, ...after).toFixed(1),
      }];
    });
  }
}

const chaosUntil = began + (seconds - CALM_S) * 1000;
const isChaos = () => Date.now() < chaosUntil;
/** Waits, but not into the calm. */
const pause = (ms) => sleep(Math.max(0, Math.min(ms, chaosUntil - Date.now())));

async function killServers(server, random) {
  let kills = 0;
  for (;;) {
    await pause(between(random, UPTIME_MS));
    if (!isChaos()) return kills;
    await server.kill();
    kills += 1;
    const outage = between(random, OUTAGE_MS);
    say(`the signalling server is killed, for ${(outage / 1000).toFixed(1)} s`);
    await pause(outage);
    await server.start();
  }
}

/** Kills the box in the middle; resolves with the pages that it served. */
async function killBox(box, random, pages) {
  await sleep(seconds * 400);
  const served = new Set((await box.status()).peers.filter((peer) => peer.open).map((peer) => peer.id));
  const orphans = new Set();
  for (const page of pages) {
    const { ids } = await stats(page);
    if (ids.some((id) => served.has(id))) orphans.add(page);
  }
  await box.kill();
  const returns = random() < 0.5;
  say(`${box.name} is killed, with ${served.size} viewers${returns ? '' : ', for good'}`);
  if (returns) {
    await pause(seconds * 150);
    await box.start();
    say(`${box.name} is back`);
  }
  return orphans;
}

async function open(browser, url, name) {
  const context = await browser.newContext({ viewport: { width: 640, height: 360 } });
  const page = await context.newPage();
  page.on('pageerror', (error) => failures.push(`${name}: ${error.message}`));
  await page.goto(url);
  return page;
}

const stats = (page) => page.evaluate(() => window.edgeseed.stats);

/** Visitors, one after the other, until the calm. */
async function passThrough(browser, url, random, name) {
  const visits = [];
  while (isChaos()) {
    await pause(between(random, [500, 4000]));
    const page = await open(browser, url, name);
    await sleep(between(random, VISIT_MS));
    const seen = await stats(page);
    visits.push(seen);
    expect(seen.playing, `${name}, visit ${visits.length}: does not play: ${seen.lastError}`);
    expect(seen.stalls === 0, `${name}, visit ${visits.length}: ${seen.stalls} stalls, ${seen.stallMs} ms`);
    await page.context().close();
  }
  return visits;
}

function row(name, seen, fate) {
  return {
    viewer: name, fate, segments: seen.segments, box: seen.p2p, http: seen.http, 'box %': seen.share?.toFixed(1),
    stalls: seen.stalls, 'stall ms': seen.stallMs, 'played s': seen.advanced.toFixed(1), 'of s': seen.playingFor.toFixed(1),
    why: JSON.stringify(seen.reasons),
  };
}

const server = new Server();
const origin = await liveOrigin(6, '320x180');
const browser = await launch();
const boxes = [];
try {
  await server.start();
  const signal = `[signal]\nurl = "ws://127.0.0.1:${server.port}/"`;
  for (const name of ['box A', 'box B']) {
    const box = await Box.create(origin.folder, name.replace(' ', '-'), origin.playlist, signal,
      'sibling-secret = "two boxes of one house"');
    box.name = name;
    await box.start();
    await box.healthy();
    boxes.push(box);
  }
  const steady = [];
  for (let index = 1; index <= STEADY; index += 1) steady.push(await open(browser, `${boxes[1].base}/watch`, `viewer ${index}`));
  for (const page of steady) {
    await until('a viewer is served by a box', 30, async () => (await stats(page)).p2p > 0);
  }
  say(`${STEADY} viewers are served`);
  // The one dies that serves more of them: which that is depends on how soon each of them opened.
  const serves = async (box) => JSON.parse(await text(`${box.base}/api/status`)).peers.filter((peer) => !peer.sibling && peer.segments > 0).length;
  const [mortal, survivor] = await serves(boxes[0]) >= await serves(boxes[1]) ? boxes : [...boxes].reverse();
  const url = `${survivor.base}/watch`;

  const samples = new Samples();
  let sampling = true;
  const sampler = (async () => {
    while (sampling) {
      const half = elapsed() < seconds / 2 ? 1 : 2;
      for (const subject of [server, ...boxes]) await samples.take(subject, half);
      await sleep(SAMPLE_MS);
    }
  })();
  const [kills, orphans, ...visits] = await Promise.all([
    killServers(server, dice[0]),
    killBox(mortal, dice[1], steady),
    ...dice.slice(2).map((random, index) => passThrough(browser, url, random, `visitor ${index + 1}`)),
  ]);
  say('calm');
  await sleep(Math.max(0, (seconds - 10 - elapsed()) * 1000));
  const before = await Promise.all(steady.map(stats));
  await sleep(Math.max(5000, (seconds - elapsed()) * 1000));
  const after = await Promise.all(steady.map(stats));
  sampling = false;
  await sampler;

  for (const [index, seen] of after.entries()) {
    const name = `viewer ${index + 1}`;
    const fresh = seen.p2p - before[index].p2p;
    expect(seen.stalls === 0, `${name}: ${seen.stalls} stalls, ${seen.stallMs} ms`);
    // A machine that has nothing left for a moment holds every player up, without a stall.
    expect(Math.abs(seen.advanced - seen.playingFor) < 1.5 + 0.015 * seen.playingFor,
      `${name}: showed ${seen.advanced.toFixed(1)} s in ${seen.playingFor.toFixed(1)} s`);
    expect(seen.failed === 0, `${name}: ${seen.failed} segments failed`);
    expect(fresh > 0, `${name}: nothing from a box in the last seconds`);
  }
  const metrics = await text(`${survivor.base}/metrics`);
  const count = (name) => Number(new RegExp(`^edgeseed_${name} (\\d+)`, 'm').exec(metrics)?.[1] ?? NaN);
  const refused = count('refused_messages_total');
  expect(refused === 0, `${survivor.name} refused ${refused} messages`);

  console.log(`\nseed ${seed}: the server was killed ${kills} times, ${mortal.name} once; ${visits.flat().length} visits`);
  console.table([
    ...after.map((seen, index) => row(`viewer ${index + 1}`, seen, orphans.has(steady[index]) ? 'lost a box' : 'kept its boxes')),
    ...visits.flatMap((list, index) => list.map((seen) => row(`visitor ${index + 1}`, seen, 'came and went'))),
  ]);
  expect(orphans.size > 0, `${mortal.name} served no steady viewer when it was killed`);
  console.table([server, ...boxes].flatMap((subject) => samples.compare(subject.name, subject === survivor)));
} catch (error) {
  failures.push(error.stack);
} finally {
  await browser.close();
  for (const box of boxes) if (box.child) await end(box.child);
  if (server.child) await end(server.child);
  await origin.stop();
}
verdict(failures);
// After a failure others may still be waiting for their time.
process.exit();
