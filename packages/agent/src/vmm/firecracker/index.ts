export { createFirecrackerDriver, type FirecrackerOptions } from './driver.ts';
