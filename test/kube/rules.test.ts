import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { customResourceDefinition } from '../../operator/src/api/crd.ts';
import { type CrdSchema, schemasIn } from '../../operator/src/api/crd.fixture.ts';
import { definitions } from '../../operator/src/api/definitions.ts';
import { checkTransition, parseResource } from '../../operator/src/api/parse.ts';
import { type Manifest, type RuleCase, ruleCases } from '../../operator/src/api/rule-cases.ts';
import type { OvpnError } from '../../operator/src/errors.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import type { Answer } from '../support/kube/kube-user.ts';
import { placesOf } from '../support/kube/paths.ts';

/** The API server and our own parser are held to the same cases, and to the same words. */
let plane: ControlPlane;
beforeAll(async () => {
  plane = await ControlPlane.start();
}, 180_000);
afterAll(() => plane.stop());

interface Cause {
  readonly field: string;
  readonly message: string;
}

/** What the server says is wrong, one by one. It names the root of an object `<nil>`. */
function causesOf({ body }: Answer): Cause[] {
  const { causes = [] } = (body['details'] ?? {}) as { causes?: Cause[] };
  return causes.map(({ field, message }) => ({ field: field === '<nil>' ? '' : field, message }));
}

/** The server writes keys of maps with a dot. */
const asServerWrites = (field: string): string => field.replaceAll(/\["([^"]*)"\]/g, '.$1');

const isAtOrAbove = (place: string, field: string): boolean =>
  place === '' || field === place || field.startsWith(`${place}.`) || field.startsWith(`${place}[`);

function ourErrors({ rejected, before }: RuleCase): readonly OvpnError[] {
  const next = parseResource(rejected, 'case.yaml');
  if (!next.ok) return next.errors;
  const old = before === undefined ? undefined : parseResource(before, 'case.yaml');
  return old?.ok === true ? checkTransition(old.resource, next.resource) : [];
}

const query = 'dryRun=All&fieldValidation=Strict';

/** Has the server judge manifests of a case; nothing is stored but the object before a change, and that only shortly. */
async function judge({ before, accepted }: RuleCase, manifests: readonly Manifest[]): Promise<Answer[]> {
  const { collection, path } = placesOf(accepted);
  const answers: Answer[] = [];
  if (before === undefined) {
    for (const manifest of manifests) answers.push(await plane.admin.send('POST', `${collection}?${query}`, manifest));
    return answers;
  }
  const stored = await plane.admin.must('POST', collection, before);
  const { resourceVersion } = stored['metadata'] as { resourceVersion: string };
  for (const manifest of manifests) {
    const metadata = { ...(manifest['metadata'] as object), resourceVersion };
    answers.push(await plane.admin.send('PUT', `${path}?${query}`, { ...manifest, metadata }));
  }
  await plane.admin.delete(path);
  return answers;
}

/** A field without its indexes, as schemas are named: `.spec.routes[]`. */
const inSchema = (field: string): string => (field === '' ? '' : `.${field.replaceAll(/\[\d+\]/g, '[]')}`);

interface CelRule {
  readonly kind: string;
  readonly path: string;
  readonly message: string;
}

/** All rules of the CRDs. */
const celRules: readonly CelRule[] = definitions.flatMap(({ kind }) =>
  allSchemas(kind).flatMap(([path, schema]) =>
    (schema['x-kubernetes-validations'] ?? []).map(({ message }) => ({ kind, path, message })),
  ),
);

/** The rule that a cause comes from; none when it comes from the shape of the schema. */
function ruleOf(kind: string, { field, message }: Cause): CelRule | undefined {
  const here = celRules.filter((rule) => rule.kind === kind && rule.path === inSchema(field));
  return here.find((rule) => message.endsWith(`: ${rule.message}`));
}

function allSchemas(kind: string): [string, CrdSchema][] {
  const definition = definitions.find((each) => each.kind === kind)!;
  const crd = customResourceDefinition(definition) as unknown as {
    spec: { versions: [{ schema: { openAPIV3Schema: CrdSchema } }] };
  };
  return [...schemasIn(crd.spec.versions[0].schema.openAPIV3Schema)].map(([path, schema]) => [path, schema]);
}

/** Which rules of the CRDs the server has refused something by. */
const seen = new Set<CelRule>();

const title = ({ rule, accepted }: RuleCase): string => `${String(accepted['kind'])}: ${rule}`;

describe('every rule about one object', () => {
  test.each(ruleCases.map((rule) => [title(rule), rule] as const))('%s', async (_, rule) => {
    const [accepted, rejected] = (await judge(rule, [rule.accepted, rule.rejected])) as [Answer, Answer];
    expect(accepted.body).not.toHaveProperty('reason');
    expect(accepted.status).toBeLessThan(300);
    switch (rule.apiServer) {
      case 'accepts':
        expect(rejected.status).toBeLessThan(300);
        return;
      case 'prunes':
        expect(rejected.status).toBe(400);
        expect(rejected.body['message']).toContain(`unknown field "${rule.field}"`);
        return;
      case 'refuses': {
        expect(rejected.status).toBe(422);
        const field = asServerWrites(rule.field);
        const near = causesOf(rejected).filter((cause) => isAtOrAbove(cause.field, field));
        const exact = near.filter((cause) => cause.field === field);
        // A rule stands on an object and is about a field inside; what else it leads to is no matter.
        const causes = exact.length > 0 ? exact : near;
        expect(causes).not.toEqual([]);
        const ours = ourErrors(rule).map(({ message }) => message);
        const rules = causes.map((cause) => ruleOf(String(rule.accepted['kind']), cause));
        // By the shape of the schema: then the server names the field itself.
        if (rules.every((each) => each === undefined)) expect(causes.map((cause) => cause.field)).toContain(field);
        for (const broken of rules) {
          if (broken === undefined) continue;
          seen.add(broken);
          // By a rule of ours: then the parser says it in the same words.
          expect(broken.message).toContain(rule.says ?? '');
          expect(ours.some((text) => text.includes(broken.message.split('; ')[0]!))).toBe(true);
        }
      }
    }
  });

  test('has a case: no rule of the CRDs is left that nothing was refused by', () => {
    expect(celRules.filter((rule) => !seen.has(rule))).toEqual([]);
  });
});

describe.each(definitions.map(({ kind }) => kind))('the fields of a %s', (kind) => {
  const cases = ruleCases.filter(({ accepted }) => accepted['kind'] === kind);

  test('that take one of some words have a case with another word', () => {
    const enums = allSchemas(kind).filter(([path, schema]) => schema.enum !== undefined && path.startsWith('.spec'));
    const tried = new Set(cases.map(({ field }) => inSchema(field)));
    expect(enums.map(([path]) => path).filter((path) => !tried.has(path))).toEqual([]);
  });

  test('get the defaults that our parser gives them, also when the server has filled them in', async () => {
    const filled = new Set<string>();
    for (const rule of cases) {
      const [answer] = (await judge(rule, [rule.accepted])) as [Answer];
      // What the server has completed is for the parser just what was written.
      const ours = parseResource(rule.accepted, 'case.yaml');
      const theirs = parseResource({ ...rule.accepted, spec: answer.body['spec'] }, 'server');
      expect(theirs).toEqual(ours);
      for (const [path, schema] of allSchemas(kind)) {
        if (schema.default === undefined) continue;
        if (wereFilled(path, rule.accepted, answer.body)) filled.add(path);
      }
    }
    const defaulted = allSchemas(kind).filter(
      ([path, schema]) => schema.default !== undefined && path.startsWith('.spec'),
    );
    expect(defaulted.map(([path]) => path).filter((path) => !filled.has(path))).toEqual([]);
  });
});

/** Whether a field that a manifest leaves out is there in the server's answer. */
function wereFilled(path: string, sent: unknown, got: unknown): boolean {
  const [, step = '', rest = ''] = /^\.?(\[\]|[^.[]+)(.*)$/.exec(path) ?? [];
  if (step === '[]') {
    const entries = Array.isArray(got) ? got : [];
    return entries.some((entry, index) => wereFilled(rest, (sent as unknown[] | undefined)?.[index], entry));
  }
  const [before, after] = [sent, got].map((value) => (value as Record<string, unknown> | undefined)?.[step]);
  return rest === '' ? before === undefined && after !== undefined : wereFilled(rest, before, after);
}
