// Media as real packagers make it, played in Chromium from the box: that it plays, that it comes from
// the box, that every byte is the origin's, and that the box leaves keys alone.
//
//   node packagers.mjs REPOSITORY [CASE …]      default: all of them (packagings.mjs)
//
// One box has all of them as its channels; several pages play at once. The program is EDGESEED, or else
// the release build.

import { createHash } from 'node:crypto';
import { createReadStream, rmSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, stat, writeFile } from 'node:fs/promises';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';

import { launch, verdict } from './chromium.mjs';
import { cases, makeSources } from './packagings.mjs';
import { end, freePort, program, run, start, text, until } from './stage.mjs';

// How much of its channel each page shows before it is judged.
const PLAY_SECONDS = 12;
// How much ffmpeg plays of each.
const PLAIN_SECONDS = 6;
// How many pages play at once: two cores decode that, and have something left for the box.
const TOGETHER = 4;
// A timer that is so late, in a process with nothing to do, found no core.
const STANDSTILL_MS = 500;
const names = process.argv.length > 3 ? process.argv.slice(3) : Object.keys(cases);
const folder = await mkdtemp(path.join(os.tmpdir(), 'edgeseed-packagers-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

/**
 * Serves the folder, with byte ranges and CORS. `asked`: what was asked for, each { name, range, box, ffmpeg }.
 * `sent`: the digests of what the box got under each name, for the files of live channels do not last.
 */
class Origin {
  asked = [];
  sent = new Map();
  #types = { '.m3u8': 'application/vnd.apple.mpegurl', '.ts': 'video/mp2t', '.mp4': 'video/mp4', '.m4s': 'video/mp4' };

  async listen() {
    this.server = http.createServer((request, response) => {
      this.#answer(request, response).catch(() => response.headersSent || response.writeHead(404).end());
    });
    await new Promise((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    this.url = `http://127.0.0.1:${this.server.address().port}`;
  }

  async #answer(request, response) {
    const name = decodeURIComponent(new URL(request.url, 'http://x').pathname);
    const file = path.join(folder, path.normalize(name));
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    const agent = request.headers['user-agent'] ?? '';
    const box = agent.startsWith('edgeseed/');
    response.setHeader('Access-Control-Allow-Origin', '*');
    response.setHeader('Access-Control-Allow-Headers', 'range');
    if (request.method === 'OPTIONS') return response.end();
    this.asked.push({ name, range: range?.[0] ?? '', box, ffmpeg: agent.startsWith('Lavf/') });
    response.setHeader('Content-Type', this.#types[path.extname(file)] ?? 'application/octet-stream');
    const { change } = cases[name.split('/')[1]];
    if (name.endsWith('.m3u8') && change) return response.end(await change(await readFile(file, 'utf8'), path.dirname(file)));
    const { size } = await stat(file);
    const [first, last] = range ? [Number(range[1]), Math.min(Number(range[2]), size - 1)] : [0, size - 1];
    const headers = { 'Content-Length': last - first + 1 };
    if (range) headers['Content-Range'] = `bytes ${first}-${last}/${size}`;
    const digest = createHash('sha256');
    response.writeHead(range ? 206 : 200, headers);
    const stream = createReadStream(file, { start: first, end: last });
    stream.on('data', (data) => digest.update(data));
    stream.on('end', () => {
      if (!box) return;
      if (!this.sent.has(name)) this.sent.set(name, new Set());
      this.sent.get(name).add(digest.digest('hex'));
    });
    stream.pipe(response);
  }

  close() {
    this.server.close();
    this.server.closeAllConnections();
  }
}

/** For how long this process, which the origin is a part of, was without a core. */
class Standstill {
  #delay = monitorEventLoopDelay();
  #before = 0;

  constructor() {
    this.#delay.enable();
  }

  begin() {
    this.#before = this.longestMs();
    this.#delay.reset();
  }

  /** The longest since `begin`. */
  ms() {
    return Math.round(this.#delay.max / 1e6);
  }

  longestMs() {
    return Math.max(this.#before, this.ms());
  }
}

/** Runs in the page before anything else: notes what comes over its data channels, and when the first opens. */
function tap() {
  window.received = [];
  window.opened = null;
  const hex = async (packets) => {
    const digest = await crypto.subtle.digest('SHA-256', await new Blob(packets).arrayBuffer());
    return Array.from(new Uint8Array(digest), (b) => b.toString(16).padStart(2, '0')).join('');
  };
  const create = RTCPeerConnection.prototype.createDataChannel;
  RTCPeerConnection.prototype.createDataChannel = function createDataChannel(...args) {
    const channel = create.apply(this, args);
    channel.addEventListener('open', () => { window.opened ??= { ms: performance.now(), http: window.edgeseed.stats.http }; });
    let answer = null;
    channel.addEventListener('message', ({ data }) => {
      if (typeof data === 'string') {
        const { event, url, attachments } = JSON.parse(data);
        if (event === 'BINARY') answer = { url, missing: attachments, packets: [] };
        return;
      }
      answer.packets.push(data);
      answer.missing -= 1;
      if (answer.missing > 0) return;
      // Listed at once, as the page counts it.
      window.received.push({ url: answer.url, digest: hex(answer.packets) });
    });
    return channel;
  };
}

const isKey = (name) => /\.(bin|key)$/.test(name);

/** One viewer of one channel: { name, row, failures, late }. `late`: what a machine without time for it may be the cause of. */
async function play(browser, base, origin, name) {
  const { init, keys = 0, share: wanted = 80 } = cases[name];
  const context = await browser.newContext();
  const page = await context.newPage();
  const [failures, late] = [[], []];
  page.on('pageerror', (error) => failures.push(error.message));
  await page.addInitScript(tap);
  const asked = origin.asked.length;
  await page.goto(`${base}/watch?channel=${name}`);
  const began = Date.now();
  const shown = () => page.evaluate(() => window.edgeseed.stats.advanced);
  await until('it plays', 2 * PLAY_SECONDS + 10, async () => await shown() >= PLAY_SECONDS)
    .catch((error) => late.push(error.message));
  const { stats, received, opened, video } = await page.evaluate(async () => {
    const video = document.getElementById('video');
    // All of one moment.
    const [stats, received] = [structuredClone(window.edgeseed.stats), [...window.received]];
    const { totalVideoFrames, droppedVideoFrames } = video.getVideoPlaybackQuality();
    const seen = { frames: totalVideoFrames, dropped: droppedVideoFrames, audio: video.webkitAudioDecodedByteCount, height: video.videoHeight };
    const digests = await Promise.all(received.map(({ digest }) => digest));
    return { stats, received: received.map(({ url }, at) => ({ url, digest: digests[at] })), opened: window.opened, video: seen };
  });
  await context.close();

  const mine = origin.asked.slice(asked).filter((ask) => !ask.box && ask.name.startsWith(`/${name}/`));
  const keysAsked = new Set(mine.map((ask) => ask.name).filter(isKey)).size;
  const media = mine.filter((ask) => !isKey(ask.name) && !ask.name.endsWith('.m3u8'));
  // Of what is loaded once there is a box to ask: a busy machine takes seconds to connect, in which a
  // recording is half loaded.
  const share = (100 * stats.p2p) / (stats.p2p + media.length - (opened?.http ?? 0));
  const initFromBox = stats.recent.filter((segment) => segment.sn === 'initSegment' && segment.source === 'p2p').length;
  const wrong = received.filter(({ url, digest }) => !origin.sent.get(path.posix.join('/', name, url))?.has(digest));

  const must = (condition, text) => { if (!condition) failures.push(text); };
  const mustInTime = (condition, text) => { if (!condition) late.push(text); };
  must(stats.playing, `does not play: ${stats.lastError}`);
  mustInTime(stats.stalls === 0 || wanted === 0, `${stats.stalls} stalls, ${stats.stallMs} ms`);
  must(stats.failed === 0, `${stats.failed} segments failed`);
  mustInTime(Math.abs(stats.advanced - stats.playingFor) <= 1.5, `showed ${stats.advanced.toFixed(1)} s in ${stats.playingFor.toFixed(1)} s`);
  mustInTime(video.frames - video.dropped > 15 * stats.advanced, `${video.frames} frames decoded, ${video.dropped} of them not shown`);
  must(video.audio > 0, 'no sound was decoded');
  mustInTime(share >= wanted, `${share.toFixed(1)} % from the box since it is connected, wanted ${wanted} %`);
  must(received.length >= stats.p2p, `the page counts ${stats.p2p} from the box, its data channels brought ${received.length}`);
  must(wrong.length === 0, `not what the origin sent: ${JSON.stringify(wrong)}`);
  must(!init || initFromBox > 0 || opened?.http > 0, 'no initialization section from the box');
  must(keysAsked >= keys, `the viewer fetched ${keysAsked} keys from the origin, wanted ${keys}`);
  if (failures.length + late.length > 0) {
    const told = stats.recent.map(({ sn, url, source, reason, ms, ok }) => `${sn} ${path.basename(url)} ${reason ?? source} ${Math.round(ms)} ms${ok ? '' : ' failed'}`);
    console.log(`${name}: ${told.join(', ')}`);
  }
  const row = {
    case: name, box: stats.p2p, origin: media.length, 'before open': opened?.http, '%': Math.round(share), init: initFromBox, equal: received.length - wrong.length,
    keys: keysAsked, 'shown s': stats.advanced.toFixed(1), 'of s': stats.playingFor.toFixed(1), stalls: stats.stalls,
    frames: video.frames, dropped: video.dropped, 'open ms': Math.round(opened?.ms), why: JSON.stringify(stats.reasons),
    'took s': ((Date.now() - began) / 1000).toFixed(1),
  };
  const named = (texts) => texts.map((text) => `${name}: ${text}`);
  return { name, row, failures: named(failures), late: named(late) };
}

/**
 * Viewers of several channels at a time: { rows, failures }. One that was late where the machine stood still
 * watches again, alone: that its channel is packaged so is then still what is tested. Whoever is late twice fails.
 */
async function playAll(browser, base, origin) {
  const [rows, failures] = [[], []];
  for (let at = 0; at < names.length; at += TOGETHER) {
    standstill.begin();
    const group = await Promise.all(names.slice(at, at + TOGETHER).map((name) => play(browser, base, origin, name)));
    const ms = standstill.ms();
    for (let result of group) {
      if (result.late.length > 0 && ms >= STANDSTILL_MS) {
        console.log(`the machine stood still for up to ${ms} ms; once more, alone: ${result.late}`);
        failures.push(...result.failures);
        result = await play(browser, base, origin, result.name);
      }
      rows.push(result.row);
      failures.push(...result.failures, ...result.late);
    }
  }
  return { rows, failures };
}

/** A player without WebRTC, ffmpeg: { row, failures }. */
async function playPlain(base, origin, name) {
  const { keys = 0 } = cases[name];
  const failures = [];
  const told = await run('timeout', ['60', 'ffmpeg', '-nostdin', '-loglevel', 'warning', '-progress', '-', '-i', `${base}/live/${name}/index.m3u8`, '-t', String(PLAIN_SECONDS), '-f', 'null', '-'])
    .catch((error) => { failures.push(error.message); return ''; });
  const frames = Number(/.*frame=(\d+)/s.exec(told)?.[1] ?? 0);
  const asked = origin.asked.filter((ask) => ask.ffmpeg && ask.name.startsWith(`/${name}/`)).map((ask) => ask.name);
  const media = asked.filter((ask) => !isKey(ask));
  if (frames < 15 * PLAIN_SECONDS) failures.push(`${frames} frames`);
  // One may come later than the box waits for it where the machine is busy.
  if (media.length > 1) failures.push(`it was sent to the origin for ${media}`);
  // How many it passes in so short a time is a matter of where it begins.
  if (keys > 0 && asked.length === media.length) failures.push('it fetched no key from the origin');
  return { row: { case: name, frames, keys: asked.length }, failures: failures.map((text) => `${name}, by ffmpeg: ${text}`) };
}

/**
 * What the box may have asked the origin for: everything once, and no key. It asks again over another
 * connection after 800 ms without an answer (src/fetch/segment.rs); so long has the origin stood still
 * where the machine is busy beyond measure, and then it is only told.
 */
function judge(asked, stoodStillMs) {
  const times = new Map();
  for (const { name, range, box } of asked) {
    if (box && !name.endsWith('.m3u8') && !cases[name.split('/')[1]].again?.test(name)) times.set(`${name} ${range}`, (times.get(`${name} ${range}`) ?? 0) + 1);
  }
  const failures = [];
  const twice = [...times].filter(([, count]) => count > 1);
  const told = `the box asked more than once for ${JSON.stringify(twice)}`;
  if (twice.length > 0 && stoodStillMs < STANDSTILL_MS) failures.push(told);
  else if (twice.length > 0) console.log(`${told}: the origin stood still for up to ${stoodStillMs} ms`);
  const keys = [...times.keys()].filter((what) => /\.(bin|key) /.test(what));
  if (keys.length > 0) failures.push(`the box asked for keys: ${keys}`);
  console.log(`the box asked the origin for ${times.size} resources and parts of them; that stood still for up to ${stoodStillMs} ms`);
  return failures;
}

const began = Date.now();
const step = (what) => console.log(`${((Date.now() - began) / 1000).toFixed(1)} s: ${what}`);
const origin = new Origin();
const standstill = new Standstill();
const failures = [];
await origin.listen();
try {
  await makeSources(folder);
  step('there are pictures and tones');
  const [pages, signal] = [await freePort(), await freePort()];
  const base = `http://127.0.0.1:${pages}`;
  let config = `[signal-server]\nlisten = "127.0.0.1:${signal}"\n[peer]\nudp-port = 0\n[store]\n`
    + `dir = "${folder}/store"\nmin-free = "0"\n[http]\nlisten = "127.0.0.1:${pages}"\n`;
  const playlists = [];
  for (const name of names) {
    const dir = path.join(folder, name);
    await mkdir(dir);
    const playlist = await cases[name].make(dir);
    playlists.push(path.join(dir, playlist));
    config += `[[channel]]\nname = "${name}"\nurl = "${origin.url}/${name}/${playlist}"\n`;
    if (cases[name].variants) config += `variants = "${cases[name].variants}"\n`;
  }
  for (const playlist of playlists) await until(playlist, 30, () => stat(playlist));
  step('the packagers have made them, or are at it');
  await writeFile(path.join(folder, 'edgeseed.toml'), config);
  const box = start(program, ['run', '--config', path.join(folder, 'edgeseed.toml')]);
  try {
    await until('the box has something of every channel', 60, async () => {
      const { channels } = JSON.parse(await text(`${base}/api/status`));
      return channels.every(({ name, segments }) => segments >= (cases[name].live ? 4 : 8));
    });
    await until('the box is healthy', 10, () => text(`${base}/healthz`));
    step('the box has them');
    const browser = await launch();
    try {
      const played = await playAll(browser, base, origin);
      console.table(played.rows);
      failures.push(...played.failures);
    } finally {
      await browser.close();
    }
    const plain = [];
    for (const name of names.filter((name) => cases[name].plain !== false)) {
      const result = await playPlain(base, origin, name);
      plain.push(result.row);
      failures.push(...result.failures);
    }
    console.table(plain);
  } catch (error) {
    failures.push(error.message);
  }
  if (failures.length > 0) console.log(box.output);
  if (await end(box) !== 0) failures.push('the box did not end well');
  failures.push(...judge(origin.asked, standstill.longestMs()));
  step('done');
} finally {
  origin.close();
}
verdict(failures);
process.exit();
