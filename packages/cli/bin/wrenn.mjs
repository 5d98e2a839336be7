#!/usr/bin/env node
import { existsSync } from 'node:fs';

const main = new URL('../dist/main.js', import.meta.url);
if (!existsSync(main)) {
  process.stderr.write('wrenn: this checkout is not built yet.\nhint: npm run build\n');
  process.exit(125);
}
await import(main.href);
