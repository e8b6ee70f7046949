// The browser and the command line, as every script here wants them.

import { parseArgs } from 'node:util';

import { chromium } from 'playwright-core';

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';

/**
 * Chromium as a viewer has it: mDNS candidates stay as they are by default, because they are what
 * the box has to live with. Nothing is sent anywhere but to the page's own addresses.
 */
export function launch() {
  return chromium.launch({
    executablePath,
    chromiumSandbox: process.getuid() !== 0,
    args: [
      '--headless=new',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--no-first-run',
      '--autoplay-policy=no-user-gesture-required',
    ],
  });
}

/** Options with their defaults; one whose default is null has to be given. Numbers stay numbers. */
export function options(defaults) {
  const names = Object.keys(defaults);
  const { values } = parseArgs({
    allowPositionals: true,
    options: Object.fromEntries(names.map((name) => [name, { type: 'string' }])),
  });
  const found = {};
  for (const name of names) {
    const value = values[name] ?? defaults[name];
    if (value === null) {
      console.error(`--${name} is missing; options: ${names.map((n) => `--${n}`).join(' ')}`);
      process.exit(64);
    }
    found[name] = typeof defaults[name] === 'number' ? Number(value) : value;
  }
  return found;
}

/** Prints the failures and ends with 1, or ends with 0. */
export function verdict(failures) {
  for (const failure of failures) console.log(`FAILED: ${failure}`);
  if (!failures.length) console.log('OK');
  process.exitCode = failures.length ? 1 : 0;
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
