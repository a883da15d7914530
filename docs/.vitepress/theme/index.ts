import DefaultTheme from 'vitepress/theme';
import './tables.css';

/** VitePress as it comes, but for tables: see tables.css. */
export default DefaultTheme;
