export { describeInstalled, type FirecrackerPrograms, firecrackerFromEnv } from './binary.ts';
export { createFirecrackerDriver } from './driver.ts';
