/** A schema of a CRD, as tests look at it. */
export interface CrdSchema {
  readonly [keyword: string]: unknown;
  readonly type?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly string[];
  readonly properties?: Readonly<Record<string, CrdSchema>>;
  readonly items?: CrdSchema;
  readonly additionalProperties?: CrdSchema;
  readonly required?: readonly string[];
  readonly 'x-kubernetes-validations'?: readonly { readonly rule: string; readonly message: string }[];
}

/** Every schema inside one, with its path (`.spec.routes[]`) and whether a CEL rule can see it. */
export function* schemasIn(schema: CrdSchema, path = '', seen = false): Generator<[string, CrdSchema, boolean]> {
  const visible = seen || schema['x-kubernetes-validations'] !== undefined;
  yield [path, schema, visible];
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    yield* schemasIn(property, `${path}.${name}`, visible);
  }
  if (schema.items !== undefined) yield* schemasIn(schema.items, `${path}[]`, visible);
  if (schema.additionalProperties !== undefined) yield* schemasIn(schema.additionalProperties, `${path}{}`, visible);
}
