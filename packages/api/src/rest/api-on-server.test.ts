/** All that the API's tests want, once more with PostgreSQL as the store. Vitest gives each file an environment. */
import { describe, vi } from 'vitest';
import { STORE_SETTING } from '../testing/harness.ts';

vi.stubEnv(STORE_SETTING, 'server');
// Each within a suite of its own, so that there is one API after the other.
const FILES = ['sandboxes', 'creations', 'templates', 'keys', 'server', 'http2', 'edge-directory', 'fuzz'];
for (const name of FILES) describe(name, async () => void (await import(`./${name}.test.ts`)));
for (const name of ['waking', 'activity'])
  describe(name, async () => void (await import(`../sandboxes/${name}.test.ts`)));
