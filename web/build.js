// `npm run build`: src/ → dist/, one page and one script.
import { copyFile, mkdir, rm } from 'node:fs/promises';
import { build } from 'esbuild';

await rm('dist', { recursive: true, force: true });
await mkdir('dist');
await copyFile('src/index.html', 'dist/index.html');
await build({
  entryPoints: ['src/watch.js'],
  outfile: 'dist/watch.js',
  bundle: true,
  minify: true,
  // Browsers of televisions are years old; from 2022 on they have all that is used here.
  target: ['chrome98', 'firefox104', 'safari15.4'],
  logLimit: 10,
  legalComments: 'eof',
});
