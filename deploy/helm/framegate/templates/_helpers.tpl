{{/* Fail with all faults of the values at once. */}}
{{- define "framegate.check" -}}
{{- $faults := list -}}
{{- if not .Values.image.repository -}}
{{- $faults = append $faults "image.repository: no image; build deploy/Dockerfile, push it to your registry, then --set image.repository=registry.example/framegate" -}}
{{- end -}}
{{- if not .Values.store.secret -}}
{{- $faults = append $faults "store.secret: no store; create a Secret with the key url, the URL of your Redis or Valkey, then --set store.secret=framegate-store" -}}
{{- end -}}
{{- if not .Values.slots -}}
{{- $faults = append $faults "slots: no slot; name those of fleet.toml, for example --set slots={box1,box2,box3}" -}}
{{- end -}}
{{- if regexMatch "[a-z]+://[^/@\\s]*:[^/@\\s]+@" .Values.pipeline -}}
{{- $faults = append $faults "pipeline: has a URL with a password, and a ConfigMap is no place for it; use url_env, and put the URL into the Secret of sourcesSecret" -}}
{{- end -}}
{{- if and (not .Values.data.storageClass) (regexMatch "(?m)^\\s*\\[record\\]" .Values.pipeline) (not (regexMatch "(?m)^\\s*bytes\\s*=" .Values.pipeline)) -}}
{{- $faults = append $faults (printf "pipeline: [record] has no bytes, and Kubernetes evicts a slot whose data folder is larger than data.size, %s; set bytes well below that, or data.storageClass" .Values.data.size) -}}
{{- end -}}
{{- if and .Values.heavy.keda.enabled (lt (int .Values.heavy.replicas) 1) -}}
{{- $faults = append $faults "heavy.replicas: must be at least 1 with heavy.keda, got 0; a run asks nothing while no worker is up" -}}
{{- end -}}
{{- if and .Values.heavy.keda.enabled (lt (int .Values.heavy.keda.maxReplicas) (int .Values.heavy.replicas)) -}}
{{- $faults = append $faults (printf "heavy.keda.maxReplicas: must be at least heavy.replicas, %d, got %d" (int .Values.heavy.replicas) (int .Values.heavy.keda.maxReplicas)) -}}
{{- end -}}
{{- if $faults -}}
{{- fail (printf "\n%s" (join "\n" $faults)) -}}
{{- end -}}
{{- end }}

{{- define "framegate.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "framegate.selector" -}}
app.kubernetes.io/name: framegate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "framegate.labels" -}}
{{ include "framegate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The URL of the store, which no command line and no manifest contains. */}}
{{- define "framegate.storeVariable" -}}
- name: FRAMEGATE_STORE
  valueFrom:
    secretKeyRef:
      name: {{ .Values.store.secret }}
      key: {{ .Values.store.key }}
{{- end }}

{{- define "framegate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
# Volumes are made writable for this group.
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "framegate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* A node that does not answer keeps its pods for 300 s by default. */}}
{{- define "framegate.tolerations" -}}
- key: node.kubernetes.io/unreachable
  operator: Exists
  effect: NoExecute
  tolerationSeconds: {{ .root.Values.unreachableSeconds }}
- key: node.kubernetes.io/not-ready
  operator: Exists
  effect: NoExecute
  tolerationSeconds: {{ .root.Values.unreachableSeconds }}
{{- with .own }}
{{ toYaml . }}
{{- end }}
{{- end }}
