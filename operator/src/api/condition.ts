import Type, { type Static } from 'typebox';
import { mapOf, oneOf } from './schema-kit.ts';

/** One condition as `metav1.Condition` defines it. */
export const conditionSchema = Type.Object(
  {
    type: Type.String({ description: 'What the condition is about, in CamelCase.', minLength: 1, maxLength: 316 }),
    status: oneOf(['True', 'False', 'Unknown'], { description: 'Whether the condition holds.' }),
    observedGeneration: Type.Optional(
      Type.Integer({ description: 'The metadata.generation that the condition was set from.', minimum: 0 }),
    ),
    lastTransitionTime: Type.String({
      description: 'When the status last changed.',
      format: 'date-time',
      maxLength: 64,
    }),
    reason: Type.String({ description: 'Why, in one CamelCase word.', minLength: 1, maxLength: 1024 }),
    message: Type.String({ description: 'Why, for a person to read.', maxLength: 32768 }),
  },
  { description: 'One aspect of the state of the object.' },
);

export type Condition = Static<typeof conditionSchema>;

/** The list of conditions that every status has. */
export const conditionsSchema = () =>
  Type.Optional(mapOf(conditionSchema, 'type', { description: 'The state of the object, by aspect.', maxItems: 16 }));

/** The generation that a status was written from. */
export const observedGeneration = () =>
  Type.Optional(
    Type.Integer({ description: 'The metadata.generation that this status was written from.', minimum: 0 }),
  );

/** A moment in a status. */
export const timestamp = (description: string) => Type.String({ description, format: 'date-time', maxLength: 64 });

/** A 64-bit counter in a status. */
export const counter = (description: string) => Type.Integer({ description, format: 'int64', minimum: 0 });
