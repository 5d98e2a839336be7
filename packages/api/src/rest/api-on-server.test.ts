/** All that the API's tests want, once more with PostgreSQL as the store. Vitest gives each file an environment. */
import { describe, vi } from 'vitest';
import { STORE_SETTING } from '../testing/harness.ts';

vi.stubEnv(STORE_SETTING, 'server');
// Each within a suite of its own, so that there is one API after the other.
for (const name of ['sandboxes', 'creations', 'templates', 'keys', 'server', 'edge-directory'])
  describe(name, async () => void (await import(`./${name}.test.ts`)));
