/**
 * Reading of checked values out of decoded JSON. The caller says how a problem is raised: the same
 * readers serve the configuration (CniConfigInvalid) and the agent's reply (AgentProtocol).
 */

export type JsonObject = Readonly<Record<string, unknown>>;

/** Raises a problem with the field at that path. */
export type Refuse = (field: string, problem: string) => never;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What a person calls the type of a JSON value. */
export function typeName(value: unknown): string {
  return value === null ? 'null' : Array.isArray(value) ? 'an array' : `a JSON ${typeof value}`;
}

/**
 * Own property of a decoded object; null counts as absent, as it does for the Go structures that runtimes
 * write configurations with. Own, because `constructor` and `__proto__` are ordinary keys in JSON.
 */
export function get(object: JsonObject, key: string): unknown {
  const value = Object.hasOwn(object, key) ? object[key] : undefined;
  return value === null ? undefined : value;
}

/** What is present of the given values: an absent property differs from an undefined one. */
export function present<T extends object>(values: { readonly [K in keyof T]: T[K] | undefined }): Partial<T> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Partial<T>;
}

/** One object with the path that leads to it, for messages that name the field. */
export class Reader {
  readonly #object: JsonObject;
  readonly #path: string;
  readonly #refuse: Refuse;

  constructor(value: unknown, path: string, refuse: Refuse) {
    this.#object = isObject(value) ? value : refuse(path, `must be an object, not ${typeName(value)}`);
    this.#path = path;
    this.#refuse = refuse;
  }

  /** Whether nothing in it says anything: null, empty texts and empty lists are what Go programs write for nothing. */
  get isEmpty(): boolean {
    return Object.values(this.#object).every(
      (value) => value === null || value === '' || (Array.isArray(value) && value.length === 0),
    );
  }

  /** Refuses the field of that name. */
  refuse(key: string, problem: string): never {
    return this.#refuse(this.#at(key), problem);
  }

  /** The value as it is. */
  value(key: string): unknown {
    return get(this.#object, key);
  }

  optionalString(key: string): string | undefined {
    const value = get(this.#object, key);
    return value === undefined || typeof value === 'string'
      ? value
      : this.refuse(key, `must be a string, not ${typeName(value)}`);
  }

  string(key: string): string {
    const value = this.optionalString(key);
    return value === undefined || value === '' ? this.refuse(key, 'is missing') : value;
  }

  optionalUint(key: string): number | undefined {
    const value = get(this.#object, key);
    if (value === undefined) {
      return undefined;
    }
    return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
      ? value
      : this.refuse(
          key,
          `must be a whole number from 0 up, not ${typeof value === 'number' ? value : typeName(value)}`,
        );
  }

  optionalBoolean(key: string): boolean | undefined {
    const value = get(this.#object, key);
    return value === undefined || typeof value === 'boolean'
      ? value
      : this.refuse(key, `must be true or false, not ${typeName(value)}`);
  }

  optionalObject(key: string): Reader | undefined {
    const value = get(this.#object, key);
    return value === undefined ? undefined : new Reader(value, this.#at(key), this.#refuse);
  }

  /** The objects of an array; an absent array is an empty one. */
  objects(key: string): Reader[] {
    return this.#array(key).map((value, index) => new Reader(value, `${this.#at(key)}[${index}]`, this.#refuse));
  }

  /** The strings of an array; an absent array is an empty one. */
  strings(key: string): string[] {
    return this.#array(key).map((value, index) =>
      typeof value === 'string' ? value : this.refuse(`${key}[${index}]`, `must be a string, not ${typeName(value)}`),
    );
  }

  #array(key: string): readonly unknown[] {
    const value = get(this.#object, key) ?? [];
    return Array.isArray(value) ? value : this.refuse(key, `must be an array, not ${typeName(value)}`);
  }

  #at(key: string): string {
    return this.#path === '' ? key : `${this.#path}.${key}`;
  }
}
