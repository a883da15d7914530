// jest transform: remove the types and leave every line where it was, as Node.js itself does when it
// runs a .ts file. What the tests run is therefore what production runs.
'use strict';
const { stripTypeScriptTypes } = require('node:module');

module.exports = {
  process: (source) => ({ code: stripTypeScriptTypes(source, { mode: 'strip' }) }),
};
