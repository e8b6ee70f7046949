// The program as it is shipped, real viewers in Chromium with its default (mDNS) candidates, and real
// origins: the sample channel of `edgeseed demo`, and a live channel made by ffmpeg behind nginx.
//
//   node end-to-end.mjs REPOSITORY [demo|live-6|live-12|simple-peer|foreign-server …]     default: all of them
//
// Screenshots are left in REPOSITORY/target/screenshots.

import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';

import { launch, sleep } from './chromium.mjs';
import { Box, end, freePort, liveOrigin, must, program, script, start, startScript, target, text, until } from './stage.mjs';

const chosen = process.argv.slice(3);
const shots = path.join(target, 'screenshots');

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

/** A live channel, and a box that follows it; by default it is the signalling server as well. */
async function live(window, run, signalUrl = null) {
  const signal = signalUrl ?? `ws://127.0.0.1:${await freePort()}/`;
  const origin = await liveOrigin(window);
  const { playlist } = origin;
  let box;
  try {
    const section = signalUrl ? `[signal]\nurl = "${signal}"` : `[signal-server]\nlisten = "${new URL(signal).host}"`;
    box = await Box.create(origin.folder, 'box', playlist, section);
    await box.start();
    await box.healthy();
    await run({ base: box.base, playlist, signal });
    const asked = new Map();
    for (const line of (await readFile(origin.accessLog, 'utf8')).split('\n')) {
      const [uri, status, agent] = line.split(' ');
      if (uri?.endsWith('.ts') && agent.startsWith('edgeseed/')) {
        asked.set(uri, [...(asked.get(uri) ?? []), status]);
      }
    }
    const twice = [...asked].filter(([, times]) => times.length > 1);
    must(asked.size > 5 && twice.length === 0,
      `the box asked the origin once for each of ${asked.size} segments ${JSON.stringify(twice)}`);
  } finally {
    if (box?.child) await end(box.child);
    await origin.stop();
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
    for (const sdp of ['today', '2018']) {
      console.log(`  SDP of ${sdp}`);
      await script('simple-peer.mjs', ['--signal', signal, '--channel', playlist, '--playlist', playlist,
        '--seconds', '20', '--sdp', sdp]);
    }
  }),
  async 'foreign-server'() {
    const port = await freePort();
    const signal = `ws://127.0.0.1:${port}/`;
    const serve = async () => {
      const server = startScript('foreign-server.mjs', ['--port', String(port), '--ids', 'integer']);
      await until('the foreign server listens', 10, () => server.output.includes('listening'));
      return server;
    };
    let server = await serve();
    try {
      await live(6, async ({ base }) => {
        const seconds = 50;
        const watching = script('watch.mjs', ['--url', `${base}/watch`, '--seconds', String(seconds), '--viewers', '2',
          '--min-p2p', '80', '--shot', path.join(shots, 'foreign-server')]);
        // Whoever fails is heard below; until then it is nobody's unhandled failure.
        watching.catch(() => {});
        await sleep(15_000);
        const heard = server.output;
        await end(server, 'SIGKILL');
        // Two fifths of the time: more than could be missing from 80 %.
        await sleep(seconds * 400);
        server = await serve();
        await watching;
        for (const action of ['enter', 'level 100', 'dc_opened']) {
          must(heard.includes(action), `the foreign server heard "${action}"`);
        }
        await until('the box is back', 40, () => server.output.includes('level 100'));
        await script('watch.mjs', ['--url', `${base}/watch`, '--seconds', '12', '--viewers', '1', '--min-p2p', '60']);
      }, signal);
    } finally {
      await end(server);
    }
  },
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
