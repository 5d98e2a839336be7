export { createQemuDriver, type QemuDriver, type QemuOptions } from './driver.ts';
