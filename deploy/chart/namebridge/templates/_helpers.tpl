{{- /* The name of all objects: at most 52 characters, since a Job's has its bridge and a checksum after it. */}}
{{- define "namebridge.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "namebridge.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "namebridge.labels" -}}
{{ include "namebridge.selector" . }}
app.kubernetes.io/version: {{ regexReplaceAll "[^A-Za-z0-9_.-]" (default .Chart.AppVersion .Values.image.tag) "-" | trunc 63 | trimAll "-_." | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "namebridge.serviceAccount" -}}
{{- default (.Values.serviceAccount.create | ternary (include "namebridge.fullname" .) "default") .Values.serviceAccount.name }}
{{- end }}

{{- define "namebridge.secret" -}}
{{- .Values.secret.create | ternary (include "namebridge.fullname" .) .Values.secret.existing }}
{{- end }}

{{- /* Tells whether other secrets were made, and as little else as can be: it is seen by all who may read Deployments and Jobs. So it is slow to try passwords
against (scrypt, with the release as its salt; a random salt would be another at each upgrade) and short. */}}
{{- define "namebridge.secretChecksum" -}}
{{- derivePassword 1 "maximum" (toJson .Values.secret.values) (print .Release.Namespace "/" .Release.Name) "secret" | sha256sum | trunc 8 }}
{{- end }}

{{- /* Not empty for a variable of secret.from that the program also reads from a file. */}}
{{- define "namebridge.readsFile" -}}
{{- if not (regexMatch "^HTTPS_PROXY$|BLN_USERNAME$" .) }}yes{{ end }}
{{- end }}

{{- define "namebridge.image" -}}
{{- with .Values.image }}
{{- .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{- /* The port that LISTEN_ADDR names. */}}
{{- define "namebridge.port" -}}
{{- get .Values.env "LISTEN_ADDR" | default ":8080" | regexFind "[0-9]+$" }}
{{- end }}

{{- /* What stands before the names of a bridge's variables, as the program has it. */}}
{{- define "namebridge.prefix" -}}
{{- . | replace "-" "_" | upper }}_
{{- end }}

{{- /* Nine tenths of the memory limit, in bytes: the Go runtime then collects garbage before the kernel kills. */}}
{{- define "namebridge.goMemoryLimit" -}}
{{- $limit := kindIs "string" . | ternary . (toString (int64 .)) }}
{{- $factors := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- mulf (regexFind "^[0-9.]+" $limit | float64) (get $factors (regexFind "[A-Za-z]*$" $limit)) 0.9 | floor | int64 }}
{{- end }}

{{- /* The environment of every pod. Kubernetes would take $(NAME) in a value for a reference. */}}
{{- define "namebridge.env" -}}
{{- with .Values.resources.limits }}{{ with .memory }}
- name: GOMEMLIMIT
  value: {{ include "namebridge.goMemoryLimit" . | quote }}
{{- end }}{{ end }}
{{- with .Values.bridges }}
- name: BRIDGES
  value: {{ join "," . | quote }}
{{- end }}
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | replace "$(" "$$(" | quote }}
{{- end }}
{{- $asFiles := .Values.secret.asFiles }}
{{- range $name, $at := .Values.secret.from }}
{{- if and $asFiles (include "namebridge.readsFile" $name) }}
- name: {{ $name }}_FILE
  value: /run/secrets/namebridge/{{ $name }}
{{- else }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $at.name }}
      key: {{ $at.key }}
{{- end }}
{{- end }}
{{- if and .Values.secret.create $asFiles }}
{{- range $name, $_ := .Values.secret.values }}
- name: {{ $name }}_FILE
  value: /run/secrets/namebridge/{{ $name }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The specification of a pod that runs one command. Takes root, args, component; daemon: it is probed and spread. */}}
{{- define "namebridge.pod" -}}
{{- $root := .root }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
serviceAccountName: {{ include "namebridge.serviceAccount" $root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
terminationGracePeriodSeconds: 30
{{- with $root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .daemon }}
topologySpreadConstraints:
{{- with $root.Values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
{{- else }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "namebridge.selector" $root | nindent 8 }}
        app.kubernetes.io/component: daemon
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}
{{- end }}
containers:
  - name: namebridge
    image: {{ include "namebridge.image" $root | quote }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    args:
      {{- toYaml .args | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: [ALL]
    env:
      {{- include "namebridge.env" $root | trim | nindent 6 }}
    {{- if and (include "namebridge.secret" $root) (not $root.Values.secret.asFiles) }}
    envFrom:
      - secretRef:
          name: {{ include "namebridge.secret" $root }}
    {{- end }}
    {{- if .daemon }}
    ports:
      - name: http
        containerPort: {{ include "namebridge.port" $root }}
    # The server gives up on an answer after 2 s by itself, and says so. It answers while the database is migrated or away, so none of that restarts it.
    startupProbe:
      httpGet: {path: /healthz, port: http}
      periodSeconds: 1
      timeoutSeconds: 5
      failureThreshold: 60
    livenessProbe:
      httpGet: {path: /healthz, port: http}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 3
    readinessProbe:
      httpGet: {path: /readyz, port: http}
      periodSeconds: 5
      timeoutSeconds: 5
      failureThreshold: 2
    {{- end }}
    resources:
      {{- toYaml $root.Values.resources | nindent 6 }}
    {{- if or $root.Values.secret.asFiles $root.Values.extraVolumeMounts }}
    volumeMounts:
      {{- if $root.Values.secret.asFiles }}
      - name: secrets
        mountPath: /run/secrets/namebridge
        readOnly: true
      {{- end }}
      {{- with $root.Values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- end }}
{{- if or $root.Values.secret.asFiles $root.Values.extraVolumes }}
volumes:
  {{- if $root.Values.secret.asFiles }}
  - name: secrets
    projected:
      defaultMode: 0440
      sources:
        {{- range $name, $at := $root.Values.secret.from }}
        {{- if include "namebridge.readsFile" $name }}
        - secret:
            name: {{ $at.name }}
            items:
              - key: {{ $at.key }}
                path: {{ $name }}
        {{- end }}
        {{- end }}
        {{- if $root.Values.secret.create }}
        - secret:
            name: {{ include "namebridge.secret" $root }}
        {{- end }}
  {{- end }}
  {{- with $root.Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* The variables that each bridge may have for itself. */}}
{{- define "namebridge.bridgeVariables" -}}
(NAMECOACH_(URL|TOKEN|EVENTS|REQUESTS_PER_15_MINUTES)|BLN_(URL|ORGANIZATION_ID|USERNAME|PASSWORD|ACCESS_TOKEN|REQUESTS_PER_SECOND|CONCURRENCY|PUT_SEMANTICS)|OTHER_INFO_(KEY|LAYOUT|FIELDS)|MATCH_BY|LINK_HOSTS|(COLLECT|SWEEP|CENSUS)_SCHEDULE|WINDOW_(LOOKBACK|SETTLE)|GUARD_MAX_CLEARS|GUARD_MAX_CLEAR_PERCENT|CENSUS_CONFIRMATIONS|JOURNAL_RETENTION)(_FILE)?$
{{- end }}

{{- /* What the schema of the values cannot see, since it is about several of them. All problems are named at once. */}}
{{- define "namebridge.check" -}}
{{- $problems := list }}
{{- $secret := .Values.secret }}
{{- $known := dict }}
{{- range $where, $variables := dict "env" .Values.env "secret.from" $secret.from "secret.values" ($secret.create | ternary $secret.values dict) }}
  {{- range $name, $_ := $variables }}
    {{- $variable := trimSuffix "_FILE" $name }}
    {{- if hasKey $known $variable }}
      {{- $problems = append $problems (printf "%s.%s: it is in %s, too. Keep one of them." $where $name (get $known $variable)) }}
    {{- end }}
    {{- $_ := set $known $variable $where }}
  {{- end }}
{{- end }}
{{- /* No message may show a value here: it is a secret, or one that was put in the wrong place. */}}
{{- range $name, $value := .Values.env }}
  {{- if and (hasSuffix "_FILE" $name) (not (hasPrefix "/" $value)) }}
    {{- $problems = append $problems (printf "env.%s: it is no path that begins with /." $name) }}
  {{- end }}
  {{- if regexMatch "^DATABASE_URL$|^ADMIN_PASSWORD_HASH$|(NAMECOACH_TOKEN|BLN_PASSWORD|BLN_ACCESS_TOKEN)$" $name }}
    {{- $problems = append $problems (printf "env.%s: it is a secret, and env is no place for secrets. Name a Secret that has it: secret.existing, or secret.from.%s." $name $name) }}
  {{- else if and (regexMatch "^HTTPS_PROXY$|_URL$" $name) (regexMatch "^([a-z0-9]+://)?[^/]*@" (toString $value)) }}
    {{- $problems = append $problems (printf "env.%s: there is a user or a password in it, and env is no place for secrets.%s" $name
      (eq $name "HTTPS_PROXY" | ternary " Name a Secret that has it: secret.from.HTTPS_PROXY." "")) }}
  {{- end }}
{{- end }}
{{- with get $secret.values "DATABASE_URL" }}
  {{- if not (regexMatch "^\\s*postgres(ql)?://" .) }}
    {{- $problems = append $problems "secret.values.DATABASE_URL: it is not like postgres://user:password@host/namebridge. (The image has no Postgres to embed.)" }}
  {{- end }}
{{- end }}
{{- with get $secret.values "ADMIN_PASSWORD_HASH" }}
  {{- if not (regexMatch "^\\$2[aby]\\$" .) }}
    {{- $problems = append $problems "secret.values.ADMIN_PASSWORD_HASH: it is no bcrypt hash." }}
  {{- end }}
{{- end }}
{{- $prefixes := list "" }}
{{- range .Values.bridges }}
  {{- $prefixes = append $prefixes (include "namebridge.prefix" .) }}
{{- end }}
{{- range $name, $where := $known }}
  {{- $prefix := regexReplaceAll (include "namebridge.bridgeVariables" $) $name "" }}
  {{- if and (ne $prefix $name) (not (has $prefix $prefixes)) }}
    {{- $problems = append $problems (printf "%s.%s: no bridge has the prefix %s. The bridges are: %s." $where $name $prefix (join ", " $.Values.bridges | default "one without a prefix")) }}
  {{- end }}
{{- end }}
{{- if .Values.monitoring.alerts.enabled }}
  {{- /* An alert whose number is below what the schedule leaves would fire again and again. What five fields of cron leave cannot be told here. */}}
  {{- $late := int64 .Values.monitoring.alerts.collectLateSeconds }}
  {{- $named := dict "@hourly" "1h" "@daily" "24h" "@midnight" "24h" "@weekly" "168h" "@monthly" "672h" "@yearly" "8760h" "@annually" "8760h" }}
  {{- $schedules := list }}
  {{- range rest $prefixes | default (list "") }}
    {{- $own := print . "COLLECT_SCHEDULE" }}
    {{- $schedules = append $schedules (hasKey $.Values.env $own | ternary $own "COLLECT_SCHEDULE") }}
  {{- end }}
  {{- range uniq $schedules }}
    {{- $when := get $.Values.env . | regexFind "@.*$" }}
    {{- $start := toDate "2006-01-02" "2000-01-01" }}
    {{- $next := dateModify (get $named $when | default (trimPrefix "@every " $when)) $start }}
    {{- if ge (sub (unixEpoch $next) (unixEpoch $start)) $late }}
      {{- $problems = append $problems (printf "env.%s: it leaves longer between two collects than monitoring.alerts.collectLateSeconds (%d), so NamebridgeCollectLate would fire again and again. Set that to six times what the schedule leaves." . $late) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- range .Values.backfill.bridges }}
  {{- if not (has . $.Values.bridges) }}
    {{- $problems = append $problems (printf "backfill.bridges: %s is none of bridges." .) }}
  {{- end }}
{{- end }}
{{- if and $secret.existing $secret.create }}
  {{- $problems = append $problems "secret.create: secret.existing is set, too. Keep one of them." }}
{{- end }}
{{- if and $secret.values (not $secret.create) }}
  {{- $problems = append $problems "secret.values: they are used with secret.create=true only." }}
{{- end }}
{{- if and $secret.existing $secret.asFiles }}
  {{- $problems = append $problems "secret.asFiles: the chart cannot see which keys secret.existing has. Name each variable with secret.from instead." }}
{{- end }}
{{- if not $secret.existing }}
  {{- /* Now all variables are known here, and what is missing would only be found by a pod that does not start. */}}
  {{- if not (hasKey $known "DATABASE_URL") }}
    {{- $problems = append $problems "DATABASE_URL is not set. Name the Secret that has it with secret.existing or secret.from, or give it with secret.create and secret.values." }}
  {{- end }}
  {{- range rest $prefixes | default (list "") }}
    {{- $prefix := . }}
    {{- $has := dict }}
    {{- range list "NAMECOACH_TOKEN" "BLN_ORGANIZATION_ID" "BLN_USERNAME" "BLN_PASSWORD" "BLN_ACCESS_TOKEN" }}
      {{- $_ := set $has . (or (hasKey $known .) (hasKey $known (print $prefix .))) }}
    {{- end }}
    {{- if not $has.NAMECOACH_TOKEN }}
      {{- $problems = append $problems (printf "%sNAMECOACH_TOKEN is not set: give it like DATABASE_URL." $prefix) }}
    {{- end }}
    {{- if not $has.BLN_ORGANIZATION_ID }}
      {{- $problems = append $problems (printf "env.%sBLN_ORGANIZATION_ID is not set." $prefix) }}
    {{- end }}
    {{- if not (or $has.BLN_ACCESS_TOKEN (and $has.BLN_USERNAME $has.BLN_PASSWORD)) }}
      {{- $problems = append $problems (printf "env.%sBLN_USERNAME and, like DATABASE_URL, %sBLN_PASSWORD are not both set, nor is %sBLN_ACCESS_TOKEN." $prefix $prefix $prefix) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- with $problems }}
  {{- fail (printf "\n  %s" (join "\n  " .)) }}
{{- end }}
{{- end }}
