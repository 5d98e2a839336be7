export { createFirecrackerDriver } from './driver.ts';
