import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import { parse } from 'yaml';
import { crdFileName, crdYaml, customResourceDefinition } from './crd.ts';
import { type CrdSchema, schemasIn } from './crd.fixture.ts';
import { definitions } from './definitions.ts';

test.each(['crds/', 'charts/ovpn-operator/files/crds/'])(
  '%s holds just what the schemas generate (else run: npm run generate)',
  (path) => {
    const folder = new URL(`../../../${path}`, import.meta.url);
    expect(
      readdirSync(folder)
        .filter((file) => file.endsWith('.yaml'))
        .sort(),
    ).toEqual(definitions.map(crdFileName).sort());
    for (const definition of definitions) {
      expect(readFileSync(new URL(crdFileName(definition), folder), 'utf8')).toBe(crdYaml(definition));
    }
  },
);

describe.each(definitions.map((definition) => [definition.kind, definition] as const))(
  'the CRD of %s',
  (_, definition) => {
    const crd = parse(JSON.stringify(customResourceDefinition(definition))) as {
      spec: {
        versions: [
          { schema: { openAPIV3Schema: CrdSchema }; additionalPrinterColumns: { name: string; jsonPath: string }[] },
        ];
      };
    };
    const [version] = crd.spec.versions;
    const all = [...schemasIn(version.schema.openAPIV3Schema)];
    const allowed =
      /^(type|description|default|enum|format|properties|required|items|additionalProperties|minimum|maximum|minLength|maxLength|minItems|maxItems|maxProperties|pattern|x-kubernetes-(validations|list-type|list-map-keys|map-type))$/;

    test.each(all)('%s is structural', (path, schema) => {
      expect(Object.keys(schema).filter((keyword) => !allowed.test(keyword))).toEqual([]);
      expect(typeof schema.type).toBe('string');
      expect(schema.properties !== undefined && schema.additionalProperties !== undefined).toBe(false);
      // A map of labels describes itself; apiVersion, kind and metadata are described by the API server.
      if (!/^(\.(apiVersion|kind|metadata)|.*\{\})$/.test(path)) expect(schema.description).toMatch(/\.$/);
      for (const name of schema.required ?? []) expect(schema.properties?.[name]?.default).toBeUndefined();
    });

    test.each(all)('%s: rules, lists and bounds', (path, schema, visible) => {
      for (const rule of schema['x-kubernetes-validations'] ?? []) {
        expect(rule.rule).toBeTruthy();
        expect(rule.message).toBeTruthy();
        expect(rule.message).not.toContain('\n');
      }
      if (schema.type === 'array') {
        expect(schema['maxItems']).toBeGreaterThan(0);
        expect(schema['x-kubernetes-list-type']).toMatch(/^(set|map|atomic)$/);
      }
      if (schema['x-kubernetes-list-type'] === 'map') {
        for (const key of schema['x-kubernetes-list-map-keys'] as string[]) {
          expect(
            schema.items?.required?.includes(key) === true || schema.items?.properties?.[key]?.default !== undefined,
          ).toBe(true);
        }
      }
      if (schema.type === 'string' && visible && /^\.spec/.test(path) && schema['enum'] === undefined) {
        expect(schema['maxLength']).toBeGreaterThan(0);
      }
      if (schema.additionalProperties !== undefined) expect(schema['maxProperties']).toBeGreaterThan(0);
    });

    test('its columns show fields that exist', () => {
      const paths = new Set(all.map(([path]) => path));
      for (const { jsonPath } of version.additionalPrinterColumns) {
        const path = jsonPath.replace(/\[.*?\]/g, '[]');
        expect([...paths, '.metadata.creationTimestamp']).toContain(path);
      }
    });
  },
);
