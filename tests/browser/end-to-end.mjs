// The program as it is shipped, real viewers in Chromium with its default (mDNS) candidates, and real
// origins: the sample channel of `edgeseed demo`, and a live channel made by ffmpeg behind nginx.
//
//   node end-to-end.mjs REPOSITORY [demo|live-6|live-12|simple-peer|stop …]     default: all of them
//
// Screenshots are left in REPOSITORY/target/screenshots. Everything stays on this machine, and only
// processes started here are ended.

import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { launch, sleep } from './chromium.mjs';

const repository = path.resolve(process.argv[2] ?? '.');
const chosen = process.argv.slice(3);
const target = process.env.CARGO_TARGET_DIR ?? path.join(repository, 'target');
const program = path.join(target, 'release', 'edgeseed');
const here = path.dirname(fileURLToPath(import.meta.url));
const shots = path.join(target, 'screenshots');
const started = new Set();

function start(command, args, options = {}) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
  child.output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data) => { child.output = (child.output + data).slice(-1_000_000); });
  }
  child.ended = new Promise((resolve) => {
    child.on('error', (error) => resolve(`${command}: ${error.message}`));
    child.on('exit', (code, signal) => resolve(code ?? signal));
  });
  started.add(child);
  child.ended.then(() => started.delete(child));
  return child;
}

async function end(child, signal = 'SIGTERM') {
  child.kill(signal);
  return Promise.race([child.ended, sleep(15_000).then(() => { child.kill('SIGKILL'); return 'did not end'; })]);
}

process.on('exit', () => { for (const child of started) child.kill('SIGKILL'); });

async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function until(what, seconds, check) {
  const deadline = Date.now() + seconds * 1000;
  let last;
  while (Date.now() < deadline) {
    try {
      const value = await check();
      if (value) return value;
    } catch (error) { last = error; }
    await sleep(100);
  }
  throw new Error(`${what}: not within ${seconds} s${last ? ` (${last.message})` : ''}`);
}

const text = async (url) => {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${await answer.text()}`);
  return answer.text();
};

function must(condition, message) {
  if (!condition) throw new Error(message);
  console.log(`  ok: ${message}`);
}

/** Runs a script of this folder and fails with it. */
async function script(name, args) {
  const child = start(process.execPath, [path.join(here, name), ...args]);
  const code = await child.ended;
  console.log(child.output.trimEnd());
  if (code !== 0) throw new Error(`${name} ended with ${code}`);
}

async function screenshot(url, name) {
  const browser = await launch();
  try {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    await page.goto(url);
    await sleep(2500);
    await mkdir(shots, { recursive: true });
    await page.screenshot({ path: path.join(shots, name) });
  } finally {
    await browser.close();
  }
}

/** A live channel by ffmpeg behind nginx, and a box that follows it. */
async function live(window, run) {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'edgeseed-live-'));
  const media = path.join(folder, 'media', 'news');
  await mkdir(media, { recursive: true });
  const [origin, http, signal] = [await freePort(), await freePort(), await freePort()];
  await writeFile(path.join(folder, 'nginx.conf'), `
    daemon off; pid ${folder}/nginx.pid; error_log stderr warn;
    ${process.getuid() === 0 ? 'user root;' : ''}
    events {}
    http {
      log_format asked '$uri $status $http_user_agent';
      access_log ${folder}/access.log asked;
      types { application/vnd.apple.mpegurl m3u8; video/mp2t ts; }
      client_body_temp_path ${folder}/t1; proxy_temp_path ${folder}/t2; fastcgi_temp_path ${folder}/t3;
      uwsgi_temp_path ${folder}/t4; scgi_temp_path ${folder}/t5;
      server {
        listen 127.0.0.1:${origin}; root ${folder}/media;
        add_header Access-Control-Allow-Origin *;
      }
    }`);
  await writeFile(path.join(folder, 'edgeseed.toml'), `
[[channel]]
url = "http://127.0.0.1:${origin}/news/index.m3u8"
[signal-server]
listen = "127.0.0.1:${signal}"
[peer]
udp-port = 0
[store]
dir = "${folder}/store"
min-free = "0"
[http]
listen = "127.0.0.1:${http}"
`);
  const children = [
    start('ffmpeg', ['-nostdin', '-loglevel', 'error', '-re', '-f', 'lavfi', '-i', 'testsrc2=size=640x360:rate=25',
      '-f', 'lavfi', '-i', 'sine=frequency=440', '-c:v', 'libx264', '-preset', 'ultrafast', '-pix_fmt', 'yuv420p',
      '-g', '50', '-keyint_min', '50', '-sc_threshold', '0', '-b:v', '1200k', '-c:a', 'aac', '-f', 'hls',
      '-hls_time', '2', '-hls_list_size', String(window), '-hls_flags', 'delete_segments+temp_file',
      '-hls_segment_filename', path.join(media, 'seg_%d.ts'), path.join(media, 'index.m3u8')]),
    start('nginx', ['-e', 'stderr', '-c', path.join(folder, 'nginx.conf'), '-p', folder],
      { env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` } }),
  ];
  const playlist = `http://127.0.0.1:${origin}/news/index.m3u8`;
  try {
    await until('a live playlist of several segments', 40,
      async () => (await text(playlist)).split('seg_').length > 4);
    const box = start(program, ['run', '--config', path.join(folder, 'edgeseed.toml')]);
    children.push(box);
    const base = `http://127.0.0.1:${http}`;
    await until('the box is healthy', 20, () => text(`${base}/healthz`))
      .catch((error) => { throw new Error(`${error.message}\n${box.output}`); });
    await run({ base, playlist, signal: `ws://127.0.0.1:${signal}/`, box });
    const asked = new Map();
    for (const line of (await readFile(path.join(folder, 'access.log'), 'utf8')).split('\n')) {
      const [uri, status, agent] = line.split(' ');
      if (uri?.endsWith('.ts') && agent.startsWith('edgeseed/')) {
        asked.set(uri, [...(asked.get(uri) ?? []), status]);
      }
    }
    const twice = [...asked].filter(([, times]) => times.length > 1);
    must(asked.size > 5 && twice.length === 0,
      `the box asked the origin once for each of ${asked.size} segments ${JSON.stringify(twice)}`);
  } finally {
    for (const child of children.reverse()) await end(child);
    await rm(folder, { recursive: true, force: true });
  }
}

const cases = {
  async demo() {
    const http = await freePort();
    const demo = start(program, ['demo', '--listen', `127.0.0.1:${http}`]);
    try {
      const base = `http://127.0.0.1:${http}`;
      await until('the demo is healthy', 20, () => text(`${base}/healthz`))
        .catch((error) => { throw new Error(`${error.message}\n${demo.output}`); });
      await script('watch.mjs', ['--url', `${base}/watch`, '--seconds', '40', '--viewers', '1',
        '--min-p2p', '80', '--shot', path.join(shots, 'demo')]);
      await screenshot(`${base}/`, 'status.png');
      const channel = JSON.parse(await text(`${base}/api/status`)).channels[0];
      const stats = JSON.parse(await text(new URL('/stats', channel.url)));
      const asked = Object.entries(stats.segments);
      const wrong = asked.filter(([, who]) => who.box !== 1);
      must(asked.length > 20 && wrong.length === 0,
        `the box asked the sample origin once for each of ${asked.length} segments ${JSON.stringify(wrong)}`);
      must(await end(demo) === 0, 'SIGTERM ends the demo with exit code 0');
    } finally {
      await end(demo);
    }
  },
  'live-6': () => live(6, async ({ base }) => {
    await script('watch.mjs', ['--url', `${base}/watch`, '--seconds', '40', '--viewers', '3', '--min-p2p', '80',
      '--shot', path.join(shots, 'live-6')]);
  }),
  'live-12': () => live(12, async ({ base }) => {
    await script('watch.mjs', ['--url', `${base}/watch`, '--seconds', '40', '--viewers', '1', '--min-p2p', '80',
      '--shot', path.join(shots, 'live-12')]);
  }),
  'simple-peer': () => live(6, async ({ signal, playlist }) => {
    await script('simple-peer.mjs', ['--signal', signal, '--channel', playlist, '--playlist', playlist,
      '--seconds', '30']);
  }),
};

let failed = 0;
for (const name of chosen.length > 0 ? chosen : Object.keys(cases)) {
  console.log(`\n${name}`);
  const began = Date.now();
  try {
    await cases[name]();
    console.log(`${name}: passed in ${Math.round((Date.now() - began) / 1000)} s`);
  } catch (error) {
    failed += 1;
    console.error(`${name}: FAILED: ${error.message}`);
  }
}
console.log(`\n${(chosen.length || Object.keys(cases).length) - failed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
