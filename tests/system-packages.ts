/**
 * Installs packages that the tests alone need, as `wrenn setup` does its own; their names are the arguments. Bundled and run as
 * root by scripts/test.mjs.
 */
import { installPackages } from '@wrenn/images';
import { WrennError } from '@wrenn/protocol';

const interrupted = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => interrupted.abort(new WrennError('cancelled', `Ended by ${signal}.`)));
}
try {
  await installPackages({
    names: process.argv.slice(2),
    asRoot: [],
    onProgress: (message) => process.stderr.write(`… ${message}\n`),
    signal: interrupted.signal,
  });
} catch (error) {
  process.stderr.write(`${WrennError.from(error).message}\n`);
  process.exitCode = 1;
}
