import { expect, it } from 'vitest';
import { parseQuiesce } from './quiesce.ts';

it.each([
  ['', false],
  [' \n', false],
  ['{}', false],
  ['{"dropCaches":null,"later":1}', false],
  ['{"dropCaches":false}', false],
  ['{"dropCaches":true}', true],
])('reads %j', (text, dropCaches) => {
  expect(parseQuiesce(text)).toEqual({ dropCaches });
});

it.each(['{', '[]', 'null', '7', '{"dropCaches":1}', '{"dropCaches":"true"}'])('refuses %j', (text) => {
  expect(parseQuiesce(text)).toEqual(expect.any(String));
});
