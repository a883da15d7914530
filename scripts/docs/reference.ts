import { join } from 'node:path';
import { cliPage } from './cli-page.ts';
import { crdsPage } from './crds-page.ts';
import { errorsPage } from './errors-page.ts';
import { metricsPage } from './metrics-page.ts';
import { valuesPage } from './values-page.ts';

export const repository = join(import.meta.dirname, '../..');
export const referenceFolder = join(repository, 'docs/reference');

/** The text of every page of docs/reference by its file name, made from the source that it describes. */
export async function referencePages(): Promise<Readonly<Record<string, string>>> {
  return {
    'crds.md': crdsPage(),
    'values.md': valuesPage(),
    'metrics.md': metricsPage(),
    'cli.md': await cliPage(),
    'errors.md': errorsPage(),
  };
}
