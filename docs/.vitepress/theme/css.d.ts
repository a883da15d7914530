/** What Vite makes of a style sheet: nothing to import. */
declare module '*.css';
