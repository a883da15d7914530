// One jest project per tier. Where a tier has to run (the lab, a control plane) is decided by scripts/test.ts.
const base = {
  testEnvironment: '<rootDir>/test/support/patient-environment.cjs',
  extensionsToTreatAsEsm: ['.ts'],
  transform: { '\\.ts$': '<rootDir>/scripts/strip-types.cjs' },
  injectGlobals: false,
  setupFiles: ['<rootDir>/scripts/property-seed.ts'],
  // Whole root filesystems and clones, with packages of the same names.
  modulePathIgnorePatterns: ['<rootDir>/dist/image', '<rootDir>/dist/release'],
};
const ignore = ['/node_modules/', '/dist/'];

export default {
  projects: [
    {
      ...base,
      displayName: 'unit',
      testMatch: [
        '<rootDir>/{operator,cni-plugin,image,scripts}/**/*.test.ts',
        '<rootDir>/test/{lab,programs,bench,fixtures,fuzz,soak,support}/**/*.test.ts',
      ],
      testPathIgnorePatterns: ignore,
    },
    {
      ...base,
      displayName: 'kernel',
      testMatch: ['<rootDir>/test/kernel/**/*.test.ts'],
      testPathIgnorePatterns: ignore,
    },
    {
      ...base,
      displayName: 'kube',
      testMatch: ['<rootDir>/test/kube/**/*.test.ts'],
      testPathIgnorePatterns: ignore,
    },
    {
      ...base,
      displayName: 'kube-lab',
      testMatch: ['<rootDir>/test/kube-lab/**/*.test.ts'],
      testPathIgnorePatterns: ignore,
    },
    {
      ...base,
      displayName: 'e2e',
      testMatch: ['<rootDir>/test/e2e/**/*.test.ts'],
      testPathIgnorePatterns: ignore,
    },
    {
      ...base,
      displayName: 'long',
      testMatch: ['<rootDir>/test/long/**/*.test.ts'],
      testPathIgnorePatterns: ignore,
    },
  ],
};
