// What the scripts here start and wait for. Everything stays on this machine, and only processes
// started here are ended.

import { spawn } from 'node:child_process';
import net from 'node:net';

import { sleep } from './chromium.mjs';

const started = new Set();
process.on('exit', () => { for (const child of started) child.kill('SIGKILL'); });

/** Starts a program; what it prints is in `output`, and `ended` resolves with its exit code. */
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

/** Runs a program to its end, and fails with it. */
export async function run(command, args, options = {}) {
  const child = start(command, args, options);
  const code = await child.ended;
  if (code !== 0) throw new Error(`${command} ended with ${code}: ${child.output.slice(-2000)}`);
  return child.output;
}

export async function end(child) {
  child.kill('SIGTERM');
  const late = sleep(15_000).then(() => { child.kill('SIGKILL'); return 'did not end'; });
  return Promise.race([child.ended, late]);
}

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
