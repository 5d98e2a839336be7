export { createQemuDriver } from './driver.ts';
