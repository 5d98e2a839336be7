/** The frequency of the host's time stamp counter, which TCG guests see as their own. */
import { readFile } from 'node:fs/promises';

const MIN_KHZ = 100_000;
const MAX_KHZ = 20_000_000;

/**
 * Linux has no file for it, but where the TSC is constant, the "BogoMIPS" of the first CPU are made from its
 * frequency: loops_per_jiffy is TSC ticks per jiffy, printed as twice the MHz with two decimals (5 kHz steps).
 * Undefined where the TSC is not constant, or something about the file is unusual.
 */
export function parseTscKhz(cpuinfo: string): number | undefined {
  const [first = ''] = cpuinfo.split(/\n\s*\n/);
  const flags = /^flags\s*:(.*)$/m.exec(first)?.[1]?.split(/\s+/) ?? [];
  const bogomips = /^bogomips\s*:\s*(\d{1,6})\.(\d{2})$/m.exec(first);
  if (!flags.includes('constant_tsc') || bogomips === null) return undefined;
  const [, whole, hundredths] = bogomips;
  const khz = Math.round((Number(whole) * 100 + Number(hundredths)) * 5);
  return khz >= MIN_KHZ && khz <= MAX_KHZ ? khz : undefined;
}

export async function hostTscKhz(): Promise<number | undefined> {
  return parseTscKhz(await readFile('/proc/cpuinfo', 'utf8'));
}
