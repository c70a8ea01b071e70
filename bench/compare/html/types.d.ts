// Types of what bench/compare/page/content.py writes into the page (`data` there has the same keys), and of what the scripts share.
// TypeScript reads this file; no browser does.

/** Mean, standard error and number of seeds. */
type Statistic = [mean: number, error: number | null, n: number];

/** A difference to the baseline in points, its interval, and what the interval is over or why there is none. */
type Difference = [mean: number | null, low: number | null, high: number | null, over: string];

/** A column of the matrices and the change of its last row in points. */
type Change = [set: number, points: number];

/** One group against another: differences of `compared`, largest gain and loss, ratios of seconds and memory, largest change. */
type Contrast = [
  differences: (number | null)[],
  gain: Change | null,
  loss: Change | null,
  ratios: (number | null)[],
  reach: number | null,
];

type Span = [low: number, high: number];
type Matrix = (number | null)[][];
type ColorScale = [at: number, color: string][];

interface Column {
  key: string;
  title: string;
  digits: number;
  cost: boolean;
  /** Whether the best value is the lowest. */
  less: boolean;
  unit: string;
  formula: string;
}

/** What a mark is drawn with. */
interface Style {
  color: string;
  variant: number;
  /** Whether it is a reference line, drawn with dashes. */
  bound?: boolean;
}

interface Group extends Style {
  label: string;
  short: string;
  method: string;
  trains: boolean;
  bound: boolean;
  n: number;
  shared: number;
  apart: Record<string, string>;
  settings: string;
  values: Record<string, Statistic>;
  mean: Matrix | null;
  error: Matrix | null;
  learned: (number | null)[];
  waiting: (number | null)[];
  losses: [mean: number | null, error: number | null][][];
  spans: (Span | null)[];
  phases: Record<string, number>;
}

interface PublishedRow {
  method: string;
  source: string;
  remarks: string;
  apart: boolean;
  values: Record<string, number>;
}

/** How the values of a setting lie on an axis. */
interface Ruler {
  values: string[];
  positions: number[];
  numeric: boolean;
  log: boolean;
}

/** What the settings tried of one method give in one column; all numbers but `low` and `high` are groups. */
interface Tops {
  best: number;
  tenth: number[];
  low: number;
  high: number;
}

interface Tried {
  method: string;
  groups: number[];
  rulers: Record<string, Ruler>;
  names: Record<string, string>;
  widest: string[];
  tops: Record<string, Tops>;
}

/** One metric of every task: a row for each group, a cell for each task and, last, the mean over tasks. */
interface TaskTable {
  key: string;
  rows: (Statistic | null)[][];
  ahead: (number | null)[];
  published: { method: string; apart: boolean; values: (number | null)[] }[];
  differences: Record<number, Difference[]>;
  reach: Span;
}

interface PerTask {
  names: string[];
  notes: string[];
  tables: TaskTable[];
}

interface Field {
  title: string;
  /** Whether its tasks are to be learned, or are requests to forget. */
  kind: "learning" | "forgetting";
  columns: Column[];
  headlines: string[];
  ranked: string;
  tradeoff: [x: string, y: string];
  compared: string[];
  conditions: [name: string, value: string][];
  notes: string[];
  tasks: string[];
  /** Columns of the matrices: the tasks, then other test sets. */
  sets: string[];
  states: string[];
  groups: Group[];
  shown: number[];
  ahead: Record<string, number | null>;
  winners: Record<string, number[]>;
  fastest: number | null;
  baselines: number[];
  contrasts: Record<number, (Contrast | null)[]>;
  accuracies: Span | null;
  ranges: Record<string, Record<string, Span | null>>;
  tried: Tried[];
  against: { baseline: number; level: number; rows: Record<number, Record<string, Difference>> } | null;
  per_task: PerTask | null;
  published: { rows: PublishedRow[]; notes: string[] } | null;
  settings: { methods: string[]; rows: [key: string, values: string[]][] };
  runs: [label: string, ...cells: (string | number)[]][];
  environments: [name: string, value: string][][];
}

interface PageData {
  costs: string[];
  together: number;
  most: number;
  scales: { sequential: ColorScale; diverging: ColorScale };
  fields: Field[];
  left_out: [path: string, reason: string][];
}

/** Colours of the page in its present scheme. */
interface Look {
  paper: string;
  ink: string;
  soft: string;
  rule: string;
  raised: string;
}

/** What Plotly draws. */
interface Drawing {
  traces: object[];
  layout: object;
}

type Build = (look: Look, width: number) => Drawing;

declare const Plotly: {
  react(node: HTMLElement, traces: object[], layout: object, config: object): void;
  purge(node: HTMLElement): void;
};
