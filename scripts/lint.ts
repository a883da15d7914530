import { staticChecks } from './static-checks.ts';
import { headline } from './tasks.ts';

// `npm run lint`: types, lint rules (the one-way imports and floating promises among them) and format.
for (const { name, run } of staticChecks) {
  headline(name);
  if ((await run()) !== 0) {
    process.stdout.write(`${name}: failed\n`);
    process.exitCode = 1;
  }
}
