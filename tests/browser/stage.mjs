// What a test in Chromium is surrounded by: the program as it is shipped, other programs, and a live
// channel made by ffmpeg behind nginx. Everything stays on this machine, and only processes started
// here are ended.

import { spawn } from 'node:child_process';
import { access, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { sleep } from './chromium.mjs';

export const repository = path.resolve(process.argv[2] ?? '.');
export const target = process.env.CARGO_TARGET_DIR ?? path.join(repository, 'target');
export const program = path.join(target, 'release', 'edgeseed');
const here = path.dirname(fileURLToPath(import.meta.url));
const started = new Set();

await access(program).catch(() => {
  console.error(`no program at ${program}: run "cargo build --release" first`);
  process.exit(69);
});

export function start(command, args, options = {}) {
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

export async function end(child, signal = 'SIGTERM') {
  child.kill(signal);
  return Promise.race([child.ended, sleep(15_000).then(() => { child.kill('SIGKILL'); return 'did not end'; })]);
}

process.on('exit', () => { for (const child of started) child.kill('SIGKILL'); });
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));

export async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export async function until(what, seconds, check) {
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

export const text = async (url) => {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${await answer.text()}`);
  return answer.text();
};

export function must(condition, message) {
  if (!condition) throw new Error(message);
  console.log(`  ok: ${message}`);
}

/** Starts a script of this folder. */
export const startScript = (name, args) => start(process.execPath, [path.join(here, name), ...args]);

/** Runs a script of this folder and fails with it. */
export async function script(name, args) {
  const child = startScript(name, args);
  const code = await child.ended;
  console.log(child.output.trimEnd());
  if (code !== 0) throw new Error(`${name} ended with ${code}`);
}

/**
 * A live channel of `window` segments of 2 s: { playlist, folder, accessLog, stop() }. `folder` is
 * there for whatever else a test writes.
 */
export async function liveOrigin(window, size = '640x360') {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'edgeseed-live-'));
  const media = path.join(folder, 'media', 'news');
  const accessLog = path.join(folder, 'access.log');
  await mkdir(media, { recursive: true });
  const port = await freePort();
  await writeFile(path.join(folder, 'nginx.conf'), `
    daemon off; pid ${folder}/nginx.pid; error_log stderr warn;
    ${process.getuid() === 0 ? 'user root;' : ''}
    events {}
    http {
      log_format asked '$uri $status $http_user_agent';
      access_log ${accessLog} asked;
      types { application/vnd.apple.mpegurl m3u8; video/mp2t ts; }
      client_body_temp_path ${folder}/t1; proxy_temp_path ${folder}/t2; fastcgi_temp_path ${folder}/t3;
      uwsgi_temp_path ${folder}/t4; scgi_temp_path ${folder}/t5;
      server {
        listen 127.0.0.1:${port}; root ${folder}/media;
        add_header Access-Control-Allow-Origin *;
      }
    }`);
  const children = [
    start('ffmpeg', ['-nostdin', '-loglevel', 'error', '-re', '-f', 'lavfi', '-i', `testsrc2=size=${size}:rate=25`,
      '-f', 'lavfi', '-i', 'sine=frequency=440', '-c:v', 'libx264', '-preset', 'ultrafast', '-pix_fmt', 'yuv420p',
      '-g', '50', '-keyint_min', '50', '-sc_threshold', '0', '-b:v', '1200k', '-c:a', 'aac', '-f', 'hls',
      '-hls_time', '2', '-hls_list_size', String(window), '-hls_flags', 'delete_segments+temp_file',
      '-hls_segment_filename', path.join(media, 'seg_%d.ts'), path.join(media, 'index.m3u8')]),
    start('nginx', ['-e', 'stderr', '-c', path.join(folder, 'nginx.conf'), '-p', folder],
      { env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` } }),
  ];
  const playlist = `http://127.0.0.1:${port}/news/index.m3u8`;
  const stop = async () => {
    for (const child of children) await end(child);
    await rm(folder, { recursive: true, force: true });
  };
  try {
    await until('a live playlist of several segments', 40,
      async () => (await text(playlist)).split('seg_').length > 4);
  } catch (error) {
    await stop();
    throw error;
  }
  return { playlist, folder, accessLog, stop };
}

/**
 * A box that follows `playlist`. `signal`: the section of its configuration that says where its
 * viewers are met; `peer`: further lines of `[peer]`. Its pages and its store outlive it: `start()`
 * and `kill()` may be repeated.
 */
export class Box {
  child = null;

  static async create(folder, name, playlist, signal, peer = '') {
    const box = new Box();
    box.name = name;
    box.config = path.join(folder, `${name}.toml`);
    const port = await freePort();
    box.base = `http://127.0.0.1:${port}`;
    await writeFile(box.config, `
[[channel]]
url = "${playlist}"
${signal}
[peer]
udp-port = 0
${peer}
[store]
dir = "${folder}/${name}"
min-free = "0"
[http]
listen = "127.0.0.1:${port}"
`);
    return box;
  }

  async start() {
    this.child = start(program, ['run', '--config', this.config]);
    await until(`${this.name} answers`, 20, () => this.status())
      .catch((error) => { throw new Error(`${error.message}\n${this.child.output}`); });
  }

  async healthy() {
    await until(`${this.name} is healthy`, 20, () => text(`${this.base}/healthz`))
      .catch((error) => { throw new Error(`${error.message}\n${this.child.output}`); });
  }

  async status() {
    return JSON.parse(await text(`${this.base}/api/status`));
  }

  async kill() {
    await end(this.child, 'SIGKILL');
    this.child = null;
  }
}
