/** All that the API's tests want, once more with PostgreSQL as the store. Vitest gives each file an environment. */
import { vi } from 'vitest';
import { STORE_SETTING } from '../testing/harness.ts';

vi.stubEnv(STORE_SETTING, 'server');
await import('./api.test.ts');
