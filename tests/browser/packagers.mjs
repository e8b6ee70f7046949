// Media as real packagers make it, played in Chromium from the box: MPEG-TS, fMP4 with its initialization
// sections, AES-128, byte ranges, and audio in renditions of its own.
//
//   node packagers.mjs REPOSITORY [CASE …]      default: all of them
//
// The program is EDGESEED, or else the release build. Shaka Packager's program is PACKAGER; without it
// its cases are left out, and said so.

import { createReadStream, rmSync } from 'node:fs';
import { access, mkdir, mkdtemp, readFile, stat, writeFile } from 'node:fs/promises';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';

import { launch, sleep } from './chromium.mjs';
import { end, freePort, run, start, until } from './processes.mjs';

const repository = path.resolve(process.argv[2] ?? '.');
const chosen = process.argv.slice(3);
const target = process.env.CARGO_TARGET_DIR ?? path.join(repository, 'target');
const program = process.env.EDGESEED ?? path.join(target, 'release', 'edgeseed');
const packager = process.env.PACKAGER;
// How long a page plays before it is judged.
const PLAY_SECONDS = 12;

const folder = await mkdtemp(path.join(os.tmpdir(), 'edgeseed-packagers-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

const ffmpeg = (args, cwd) => run('ffmpeg', ['-nostdin', '-loglevel', 'error', '-y', ...args], { cwd });
const source = path.join(folder, 'source.mp4');
const low = path.join(folder, 'low.mp4');
const german = path.join(folder, 'de.mp4');
const encode = ['-c:v', 'libx264', '-preset', 'ultrafast', '-pix_fmt', 'yuv420p', '-g', '50', '-keyint_min', '50',
  '-sc_threshold', '0'];

async function makeSources() {
  await ffmpeg(['-f', 'lavfi', '-i', 'testsrc2=size=320x180:rate=25', '-f', 'lavfi', '-i', 'sine=frequency=440',
    '-t', '30', ...encode, '-b:v', '400k', '-c:a', 'aac', source]);
  await ffmpeg(['-i', source, '-vf', 'scale=160:90', ...encode, '-b:v', '100k', '-an', low]);
  await ffmpeg(['-f', 'lavfi', '-i', 'sine=frequency=880', '-t', '30', '-c:a', 'aac', german]);
  await writeFile(path.join(folder, 'key.bin'), '0123456789abcdef');
}

const recording = (...args) => async (dir) => {
  await ffmpeg(['-i', source, '-c', 'copy', '-f', 'hls', '-hls_time', '2', '-hls_playlist_type', 'vod', ...args,
    'index.m3u8'], dir);
  return 'index.m3u8';
};
const live = (...args) => async (dir) => {
  start('ffmpeg', ['-nostdin', '-loglevel', 'error', '-stream_loop', '-1', '-re', '-i', source, '-c', 'copy', '-f',
    'hls', '-hls_time', '2', '-hls_list_size', '6', '-hls_flags', 'delete_segments+temp_file+program_date_time', ...args,
    'index.m3u8'], { cwd: dir });
  await until('a live playlist of several segments', 40,
    async () => (await readFile(path.join(dir, 'index.m3u8'), 'utf8')).split('#EXTINF').length > 4);
  return 'index.m3u8';
};
const shaka = async (dir) => {
  await run(packager, ['--quiet', '--segment_duration', '2',
    `in=${source},stream=video,output=video.mp4,playlist_name=video.m3u8`,
    `in=${source},stream=audio,output=en.mp4,playlist_name=en.m3u8,hls_group_id=audio,hls_name=en,language=en`,
    `in=${german},stream=audio,output=de.mp4,playlist_name=de.m3u8,hls_group_id=audio,hls_name=de,language=de`,
    '--hls_master_playlist_output', 'index.m3u8'], { cwd: dir });
  return 'index.m3u8';
};

// What each makes, and what a viewer has to get from the box: a part of all it loads, in percent, and
// whether initialization sections are among it (those that are byte ranges have no name of their own).
const cases = {
  'ffmpeg-ts-live': { make: live(), share: 80 },
  'ffmpeg-fmp4-live': { make: live('-hls_segment_type', 'fmp4'), share: 80, init: true },
  'ffmpeg-aes-128': {
    make: async (dir) => {
      await writeFile(path.join(dir, 'key.info'), `key.bin\n${path.join(folder, 'key.bin')}\n`);
      await writeFile(path.join(dir, 'key.bin'), '0123456789abcdef');
      return recording('-hls_key_info_file', 'key.info')(dir);
    },
    share: 80,
  },
  'ffmpeg-byte-ranges-ts': { make: recording('-hls_flags', 'single_file'), share: 80 },
  'ffmpeg-byte-ranges-fmp4': {
    make: recording('-hls_flags', 'single_file', '-hls_segment_type', 'fmp4'), share: 80,
  },
  'ffmpeg-audio-renditions': {
    make: async (dir) => {
      await ffmpeg(['-i', source, '-i', low, '-i', german, '-map', '0:v', '-map', '1:v', '-map', '0:a', '-map', '2:a',
        '-c', 'copy', '-f', 'hls', '-hls_time', '2', '-hls_playlist_type', 'vod', '-hls_segment_type', 'fmp4',
        '-master_pl_name', 'master.m3u8', '-var_stream_map', 'v:0,agroup:a,name:high v:1,agroup:a,name:low '
        + 'a:0,agroup:a,language:en,default:yes,name:en a:1,agroup:a,language:de,name:de',
        '-hls_segment_filename', '%v_%d.m4s', '%v.m3u8'], dir);
      return 'master.m3u8';
    },
    share: 80, init: true, variants: 'all',
  },
  'shaka-byte-ranges-audio': { make: shaka, share: 80, variants: 'all', needs: packager },
};

/** Serves the folder: byte ranges, CORS, and a note of what the box asked for. */
function serve(asked) {
  const types = { '.m3u8': 'application/vnd.apple.mpegurl', '.ts': 'video/mp2t', '.mp4': 'video/mp4', '.m4s': 'video/mp4' };
  const server = http.createServer(async (request, response) => {
    const name = decodeURIComponent(new URL(request.url, 'http://x').pathname);
    const file = path.join(folder, path.normalize(name));
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    if (request.headers['user-agent']?.startsWith('edgeseed/')) asked.push(`${name} ${range?.[0] ?? ''}`.trim());
    response.setHeader('Access-Control-Allow-Origin', '*');
    response.setHeader('Access-Control-Allow-Headers', 'range');
    if (request.method === 'OPTIONS') return response.end();
    try {
      const { size } = await stat(file);
      response.setHeader('Content-Type', types[path.extname(file)] ?? 'application/octet-stream');
      if (!range) {
        response.setHeader('Content-Length', size);
        return createReadStream(file).pipe(response);
      }
      const [first, last] = [Number(range[1]), Math.min(Number(range[2]), size - 1)];
      response.writeHead(206, { 'Content-Range': `bytes ${first}-${last}/${size}`, 'Content-Length': last - first + 1 });
      createReadStream(file, { start: first, end: last }).pipe(response);
    } catch {
      response.writeHead(404).end();
    }
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)));
}

async function play(browser, base, name, { share, init }) {
  const page = await (await browser.newContext()).newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.message));
  await page.goto(`${base}/watch?channel=${name}`);
  await sleep(PLAY_SECONDS * 1000);
  const stats = await page.evaluate(() => window.edgeseed.stats);
  await page.context().close();
  const sections = stats.recent.filter((segment) => segment.sn === 'initSegment');
  const fromBox = sections.filter((section) => section.source === 'p2p');
  console.log(`  ${name}: ${stats.p2p} of ${stats.segments} from the box (${stats.share?.toFixed(0)} %), `
    + `${sections.length} sections (${fromBox.length} from the box), played ${stats.advanced.toFixed(1)} s of `
    + `${stats.playingFor.toFixed(1)} s, ${stats.stalls} stalls, why ${JSON.stringify(stats.reasons)}`);
  const wrong = [...errors];
  if (!stats.playing) wrong.push(`does not play: ${stats.lastError}`);
  if (stats.playingFor < PLAY_SECONDS - 6) wrong.push('began late');
  if (Math.abs(stats.advanced - stats.playingFor) > 1.5) wrong.push('did not play at its pace');
  if (stats.stalls > 0) wrong.push(`${stats.stalls} stalls`);
  if (!(stats.share >= share)) wrong.push(`${stats.share} % from the box, wanted ${share} %`);
  if (init && fromBox.length === 0) wrong.push('no initialization section from the box');
  return wrong.map((text) => `${name}: ${text}`);
}

await access(program).catch(() => {
  console.error(`no program at ${program}: run "cargo build --release" first`);
  process.exit(69);
});
const names = (chosen.length > 0 ? chosen : Object.keys(cases)).filter((name) => {
  const there = !('needs' in cases[name]) || cases[name].needs;
  if (!there) console.log(`  ${name}: left out, PACKAGER is not set`);
  return there;
});
const failures = [];
const asked = [];
const origin = await serve(asked);
try {
  await makeSources();
  const url = `http://127.0.0.1:${origin.address().port}`;
  const [pages, signal] = [await freePort(), await freePort()];
  let config = `[signal-server]\nlisten = "127.0.0.1:${signal}"\n[peer]\nudp-port = 0\n[store]\n`
    + `dir = "${folder}/store"\nmin-free = "0"\n[http]\nlisten = "127.0.0.1:${pages}"\n`;
  for (const name of names) {
    const dir = path.join(folder, name);
    await mkdir(dir);
    const playlist = await cases[name].make(dir);
    config += `[[channel]]\nname = "${name}"\nurl = "${url}/${name}/${playlist}"\n`;
    if (cases[name].variants) config += `variants = "${cases[name].variants}"\n`;
  }
  await writeFile(path.join(folder, 'edgeseed.toml'), config);
  const box = start(program, ['run', '--config', path.join(folder, 'edgeseed.toml')]);
  const base = `http://127.0.0.1:${pages}`;
  await until('the box is healthy', 30, async () => (await fetch(`${base}/healthz`)).ok)
    .catch((error) => { throw new Error(`${error.message}\n${box.output}`); });
  await until('recordings are stored, and something of each live channel', 30, async () => {
    const { channels } = await (await fetch(`${base}/api/status`)).json();
    return channels.every(({ name, segments }) => segments >= (name.endsWith('-live') ? 3 : 15));
  });
  const browser = await launch();
  try {
    for (const name of names) failures.push(...await play(browser, base, name, cases[name]));
  } finally {
    await browser.close();
  }
  if (failures.length > 0) console.log(box.output);
  await end(box);
  const times = new Map();
  for (const what of asked) times.set(what, (times.get(what) ?? 0) + 1);
  const twice = [...times].filter(([what, count]) => count > 1 && !what.includes('.m3u8'));
  // Without a discontinuity, everything once.
  if (twice.length > 0) failures.push(`the box asked more than once for ${JSON.stringify(twice)}`);
  const keys = asked.filter((what) => what.includes('key.bin'));
  if (keys.length > 0) failures.push('the box asked for a key');
  console.log(`  the box asked the origin once for each of ${times.size} resources and parts, and for no key`);
} finally {
  origin.close();
  origin.closeAllConnections();
}
for (const failure of failures) console.log(`FAILED: ${failure}`);
console.log(failures.length === 0 ? 'OK' : `${failures.length} failed`);
process.exit(failures.length === 0 ? 0 : 1);
