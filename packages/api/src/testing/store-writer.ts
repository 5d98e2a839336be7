/** A program that writes sandboxes to an embedded store for ever, and says each that is written. To be killed. */
import { writeSync } from 'node:fs';
import { parseApiConfig } from '../config/schema.ts';
import { openStore } from '../store/index.ts';

const [dataDir = ''] = process.argv.slice(2);
const store = await openStore(parseApiConfig({ store: { dataDir } }).store);
for (let n = 0; ; n += 1) {
  const id = `${process.pid}-${n}`;
  await store.sandboxes.begin(id, 't');
  await store.sandboxes.finish(id, [
    {
      id,
      teamId: 't',
      keyId: 'k',
      template: 'base',
      metadata: { n: String(n) },
      trafficToken: undefined,
      network: {},
      autoPause: false,
      autoResume: false,
      timeoutMs: 1000,
      createdAt: new Date(),
      endsAt: new Date(),
    },
  ]);
  writeSync(1, `${id}\n`);
}
