// The receiving end of the serve bench: so many viewers in one process, on libdatachannel or in one
// page of Chromium. Prints what opening took, waits for a line, runs, and prints what the viewers saw.
//
//   node receiver.mjs '{"kind":"chromium","viewers":8,"signal":"ws://…","channel":"…",…}'

import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

const plan = JSON.parse(process.argv[2]);
const say = (message) => console.log(JSON.stringify(message));
const told = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { open, run, close } = await (plan.kind === 'chromium' ? inChromium() : onLibdatachannel());
try {
  say({ opened: await open() });
  await told.next();
  say({ seen: await run() });
  await told.next();
} finally {
  await close();
}
process.exit(0);

async function onLibdatachannel() {
  const { RTCPeerConnection } = await import('node-datachannel/polyfill');
  const { WebSocket } = await import('ws');
  const { Viewer } = await import('./viewer.js');
  const viewers = [];
  return {
    async open() {
      const took = [];
      for (let number = 0; number < plan.viewers; number += 1) {
        const viewer = new Viewer({ RTCPeerConnection, WebSocket }, plan, number);
        took.push(await viewer.open());
        viewers.push(viewer);
      }
      return took;
    },
    async run() {
      await Promise.all(viewers.map((viewer) => viewer.run()));
      return viewers.map((viewer) => viewer.seen());
    },
    async close() {},
  };
}

async function inChromium() {
  const { launch } = await import('../../tests/browser/chromium.mjs');
  const script = await readFile(new URL('viewer.js', import.meta.url));
  const server = createServer((request, response) => {
    const isScript = request.url === '/viewer.js';
    response.writeHead(200, { 'content-type': isScript ? 'text/javascript' : 'text/html' });
    response.end(isScript ? script : '<!doctype html><title>viewers</title>');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const browser = await launch();
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  return {
    open: () => page.evaluate(async (given) => {
      const { Viewer } = await import('/viewer.js');
      window.viewers = [];
      const took = [];
      for (let number = 0; number < given.viewers; number += 1) {
        const viewer = new Viewer({ RTCPeerConnection, WebSocket }, given, number);
        took.push(await viewer.open());
        window.viewers.push(viewer);
      }
      return took;
    }, plan),
    run: () => page.evaluate(async () => {
      await Promise.all(window.viewers.map((viewer) => viewer.run()));
      return window.viewers.map((viewer) => viewer.seen());
    }),
    async close() {
      await browser.close();
      server.close();
    },
  };
}
