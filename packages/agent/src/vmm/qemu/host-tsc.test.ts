import { expect, it } from 'vitest';
import { parseTscKhz } from './host-tsc.ts';

const cpu = (bogomips: string, flags = 'fpu tsc constant_tsc nonstop_tsc') =>
  `processor\t: 0\ncpu MHz\t\t: 800.1\nflags\t\t: ${flags}\nbogomips\t: ${bogomips}\nclflush size\t: 64\n\n`;

it('reads the frequency of the TSC from the first CPU', () => {
  expect(parseTscKhz(cpu('4890.80') + cpu('1.00'))).toBe(2_445_400);
  expect(parseTscKhz(cpu('5999.99'))).toBe(2_999_995);
});

it('knows when it does not know', () => {
  expect(parseTscKhz(cpu('4890.80', 'fpu tsc'))).toBeUndefined();
  expect(parseTscKhz(cpu('0.01'))).toBeUndefined();
  expect(parseTscKhz(cpu('many'))).toBeUndefined();
  expect(parseTscKhz('processor : 0\nBogoMIPS : 50.00\n')).toBeUndefined();
  expect(parseTscKhz('')).toBeUndefined();
});
