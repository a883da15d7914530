import js from '@eslint/js';
import tseslint from 'typescript-eslint';

/**
 * The one-way import rule of the design: a folder of operator/src may import itself, what stands below
 * it in this table, and nothing else of operator/src. `errors.ts` (the table of errors) is below all.
 */
const mayImport = {
  api: [],
  kernel: [],
  openvpn: [],
  telemetry: [],
  cluster: ['api', 'telemetry'],
  controller: ['api', 'cluster', 'openvpn', 'kernel', 'telemetry'],
  agent: ['api', 'cluster', 'openvpn', 'kernel', 'holder', 'telemetry'],
  holder: ['kernel', 'telemetry'],
  cli: ['api', 'cluster', 'openvpn', 'kernel', 'telemetry', 'agent', 'controller', 'holder'],
};

const layering = Object.entries(mayImport).map(([folder, allowed]) => ({
  files: [`operator/src/${folder}/**/*.ts`],
  rules: {
    'no-restricted-imports': [
      'error',
      {
        patterns: Object.keys(mayImport)
          .filter((other) => other !== folder && !allowed.includes(other))
          .map((other) => ({
            group: [`../${other}/*`, `../../${other}/*`],
            message: `operator/src/${folder} must not import operator/src/${other} (one-way imports, see eslint.config.js).`,
          })),
      },
    ],
  },
}));

export default tseslint.config(
  { ignores: ['**/node_modules/', '**/dist/', 'out/', 'coverage/'] },
  js.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [...tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      '@typescript-eslint/no-non-null-assertion': 'error',
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: true }],
    },
  },
  {
    // Tests reach for what a table row surely holds; a wrong guess fails the test, which is the point.
    files: ['**/*.test.ts', 'test/**/*.ts'],
    rules: { '@typescript-eslint/no-non-null-assertion': 'off' },
  },
  {
    files: ['**/*.cjs'],
    languageOptions: { globals: { require: 'readonly', module: 'writable' }, sourceType: 'commonjs' },
  },
  ...layering,
);
