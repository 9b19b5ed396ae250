#!/usr/bin/env bash
# Checks the dashboards against the types that Grafana publishes of its dashboards' JSON and of the panels' options. Needs npm; what it gets is
# in .cache/grafana. The Go tests of deploy/dashboards need none of this: they hold what the types do not say.
set -euo pipefail
cd "$(dirname "$0")/.."

schema_version=13.2.3
typescript_version=5.9.3
cache=$PWD/.cache/grafana

npm install --silent --no-save --no-audit --no-fund --ignore-scripts --cache "$PWD/.cache/npm" --prefix "$cache" \
	"@grafana/schema@$schema_version" "typescript@$typescript_version" >/dev/null

# As types tell it: enumerations are their values, and panels say of themselves which plugin's options they have.
cat >"$cache/types.ts" <<'TYPES'
import type { Dashboard, Panel, RowPanel } from '@grafana/schema';
import type * as heatmap from './node_modules/@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from './node_modules/@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as table from './node_modules/@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeseries from './node_modules/@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

type Plain<T> = T extends string ? `${T}` : T extends number ? (`${T}` extends `${infer N extends number}` ? N : number) : T extends boolean ? T
  : T extends (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
type Field = NonNullable<Panel['fieldConfig']>['defaults'];
type Of<Name, Options, Custom> = Plain<Omit<Panel, 'type' | 'options' | 'fieldConfig'>> & {
  type: Name; options: Partial<Plain<Options>>;
  fieldConfig: Plain<Omit<NonNullable<Panel['fieldConfig']>, 'defaults'>> & { defaults: Plain<Omit<Field, 'custom'>> & { custom?: Partial<Plain<Custom>> } };
};
export type File = Plain<Omit<Dashboard, 'panels' | 'annotations'>> & {
  annotations: { list: (Plain<Omit<NonNullable<NonNullable<Dashboard['annotations']>['list']>[number], 'target'>> & {
    target: { refId: string; expr: string; interval: string }; titleFormat: string })[] }; // as the Prometheus data source has it
  panels: (Plain<RowPanel> | Of<'stat', stat.Options, {}> | Of<'timeseries', timeseries.Options, timeseries.FieldConfig>
    | Of<'table', table.Options, table.FieldConfig> | Of<'heatmap', heatmap.Options, heatmap.FieldConfig>)[];
};
TYPES

files=()
for file in deploy/chart/namebridge/files/dashboards/*.json; do
	name=$(basename "$file" .json)
	{ echo "import type { File } from './types'; export const dashboard: File = "; cat "$file"; } >"$cache/$name.ts"
	files+=("$name.ts")
done
(cd "$cache" && node_modules/.bin/tsc --noEmit --strict --skipLibCheck --moduleResolution bundler --module esnext --target es2022 "${files[@]}")
echo "dashboards as @grafana/schema $schema_version has them: ${files[*]%.ts}"
