import Type, { type Static } from 'typebox';
import { closed, labelKeyPattern, labels, labelValue, listOf, oneOf, withRules } from './schema-kit.ts';

/** Label selectors as Kubernetes has them (metav1.LabelSelector), and what they select. */

const requirement = withRules(
  closed(
    {
      key: Type.String({ description: 'The label.', minLength: 1, maxLength: 317 }),
      operator: oneOf(['In', 'NotIn', 'Exists', 'DoesNotExist'], {
        description: 'How the value of the label is judged. A label that is not there satisfies NotIn.',
      }),
      values: listOf(labelValue('A value of the label.'), {
        description: 'The values for In and NotIn.',
        default: [],
        maxItems: 32,
      }),
    },
    { description: 'A condition on one label.' },
  ),
  [
    {
      cel: "(self.operator in ['In', 'NotIn']) == (self.values.size() > 0)",
      message: 'must have values for In and NotIn, and none for Exists and DoesNotExist',
      offenders: (self) => (['In', 'NotIn'].includes(self.operator) === self.values.length > 0 ? [] : ['.values']),
    },
    {
      // Without CEL, as with the keys of matchLabels.
      message: 'must be the name of a label, such as "app.kubernetes.io/name" or "team"',
      offenders: (self) => (labelKeyPattern.test(self.key) ? [] : ['.key']),
    },
  ],
);

const selectorFields = {
  matchLabels: labels('Labels that must be there with just these values.'),
  matchExpressions: listOf(requirement, {
    description: 'Conditions that must all hold.',
    default: [],
    maxItems: 16,
  }),
};

/** A field that selects objects by their labels; empty, it selects all. */
export function labelSelector(description: string) {
  return closed(selectorFields, { description });
}

export type LabelSelector = Static<ReturnType<typeof labelSelector>>;

/** Whether the selector takes an object with these labels. */
export function matchesSelector(selector: LabelSelector, own: Readonly<Record<string, string>>): boolean {
  const value = (key: string): string | undefined => (Object.hasOwn(own, key) ? own[key] : undefined);
  return (
    Object.entries(selector.matchLabels).every(([key, wanted]) => value(key) === wanted) &&
    selector.matchExpressions.every(({ key, operator, values }) => {
      const present = value(key);
      switch (operator) {
        case 'In':
          return present !== undefined && values.includes(present);
        case 'NotIn':
          return present === undefined || !values.includes(present);
        case 'Exists':
          return present !== undefined;
        case 'DoesNotExist':
          return present === undefined;
      }
    })
  );
}
