// A viewer as the field has them: npm's simple-peer 8 in a page, with the signalling shapes that
// were seen on the wire (protocol.md section 3). It asks for each segment of a live playlist as
// soon as that lists it, and compares every byte with the origin's.
//
//   node simple-peer.mjs --signal ws://127.0.0.1:12035/ --playlist http://127.0.0.1:9100/sample/index.m3u8 --seconds 30
//
// --channel is the channel's id; by default the playlist's URL without its query. --sdp 2018 sends the
// offer as browsers of that year wrote it, and wants the answer in the same form.

import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';

import { launch, options, sleep, verdict } from './chromium.mjs';

const given = options({ signal: null, playlist: null, channel: '', seconds: 30, 'min-p2p': 80, sdp: 'today' });
const { signal, playlist, seconds, 'min-p2p': minP2p, sdp } = given;
const channel = given.channel || playlist.split('?')[0];

// simple-peer's own bundle for browsers; its sources want a bundler with Node's modules.
const files = {
  '/': ['text/html', '<!doctype html><meta charset="utf-8"><script src="/simple-peer.js"></script><script type="module" src="/viewer.js"></script>'],
  '/simple-peer.js': ['text/javascript', await readFile(createRequire(import.meta.url).resolve('simple-peer/simplepeer.min.js'))],
  '/viewer.js': ['text/javascript', await readFile(new URL('simple-peer-viewer.js', import.meta.url))],
};
const server = createServer((request, response) => {
  const [type, body] = files[request.url] ?? ['text/plain', ''];
  response.writeHead(200, { 'content-type': type }).end(body);
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));

const browser = await launch();
const failures = [];
const results = [];
try {
  const page = await browser.newPage();
  page.on('console', (message) => console.log(`page: ${message.text()}`));
  page.on('pageerror', (error) => failures.push(`page: ${error.message}`));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.waitForFunction(() => window.viewer);
  const connectMs = await page.evaluate((args) => window.viewer.connect(...args), [signal, channel, sdp]);
  console.log(`connected after ${connectMs} ms, as ${await page.evaluate(() => window.viewer.about())}`);
  await watchChannel(page);
} catch (error) {
  failures.push(error.message.split('\n')[0]);
} finally {
  await browser.close();
  server.close();
}
report();
verdict(failures);

async function watchChannel(page) {
  const end = Date.now() + seconds * 1000;
  let next = null;
  while (Date.now() < end) {
    const segments = await listed();
    // A player begins three segments before the live edge.
    next ??= segments.at(-3)?.sn ?? 0;
    for (const segment of segments.filter(({ sn }) => sn >= next)) {
      next = segment.sn + 1;
      const answer = await page.evaluate(([uri, sn]) => window.viewer.request(uri, sn), [segment.uri, segment.sn]);
      const expected = answer.kind === 'segment' ? await originHash(segment.url) : null;
      const same = expected === null ? null : expected === answer.sha256;
      results.push({ ...segment, ...answer, same });
      if (same === false) failures.push(`${segment.uri}: ${answer.size} bytes that are not the origin's`);
    }
    await sleep(250);
  }
}

/** The segments of the media playlist: { uri as written, url, sn }. */
async function listed() {
  const answer = await fetch(playlist);
  if (!answer.ok) throw new Error(`${playlist}: ${answer.status}`);
  const text = await answer.text();
  if (text.includes('#EXT-X-STREAM-INF')) throw new Error('give the media playlist, not the multivariant one');
  const first = Number(/#EXT-X-MEDIA-SEQUENCE:(\d+)/.exec(text)?.[1] ?? 0);
  const uris = text.split(/\r?\n/).filter((line) => line && !line.startsWith('#'));
  return uris.map((uri, index) => ({ uri, url: new URL(uri, answer.url).href, sn: first + index }));
}

async function originHash(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  return createHash('sha256').update(Buffer.from(await answer.arrayBuffer())).digest('hex');
}

function report() {
  const of = (kind) => results.filter((result) => result.kind === kind);
  const times = of('segment').map(({ ms }) => ms).sort((a, b) => a - b);
  const inTime = of('segment').filter(({ same }) => same).length;
  const share = results.length ? (100 * inTime) / results.length : 0;
  console.table([{
    asked: results.length,
    'in time': inTime,
    '%': share.toFixed(1),
    lack: of('lack').length,
    late: of('late').length,
    'p50 ms': Math.round(times[times.length >> 1]),
    'worst ms': Math.round(times.at(-1)),
    'mean bytes': Math.round(of('segment').reduce((sum, { size }) => sum + size, 0) / Math.max(1, times.length)),
  }]);
  if (share < minP2p) failures.push(`${share.toFixed(1)} % came in time, wanted ${minP2p} %`);
  const broken = of('broken')[0];
  if (broken) failures.push(`${broken.uri}: ${broken.why}`);
}
