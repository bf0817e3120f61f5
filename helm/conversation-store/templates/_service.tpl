{{- define "conversation-store.callers" -}}gateway agent-runtime tool-runner{{- end -}}

{{/* One file has one owner, and two replicas on two files would be two stores. */}}
{{- define "conversation-store.checkStorage" -}}
{{- $storage := .Values.storage -}}
{{- if eq $storage.backend "sqlite" -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- fail (printf "conversation-store: replicas is %d, but SQLite serves one replica; set replicas=1, or storage.backend=postgres" (int .Values.replicas)) -}}
{{- end -}}
{{- if .Values.autoscaling.enabled -}}
{{- fail "conversation-store: autoscaling.enabled is true, but SQLite serves one replica; set storage.backend=postgres" -}}
{{- end -}}
{{- else if not $storage.postgres.existingSecret -}}
{{- fail "conversation-store: storage.backend is postgres, but storage.postgres.existingSecret names no secret with the database's URL" -}}
{{- end -}}
{{- if and (eq $storage.backend "postgres") (not $storage.blobs.url) -}}
{{- fail "conversation-store: storage.backend is postgres, but storage.blobs.url names no bucket; each pod would keep large payloads for itself, until it ends" -}}
{{- end -}}
{{- if and $storage.redis.enabled (not $storage.redis.existingSecret) -}}
{{- fail "conversation-store: storage.redis.enabled is true, but storage.redis.existingSecret names no secret with its URL" -}}
{{- end -}}
{{- end -}}

{{- define "conversation-store.volume" -}}
{{- if eq .Values.storage.backend "sqlite" }}{{ toYaml .Values.storage.sqlite }}{{ end -}}
{{- end -}}

{{- define "conversation-store.environment" -}}
- name: API_KEY_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ .Values.apiKeys.existingSecret | default (printf "%s-api-keys" (include "agentmesh.mesh" .)) }}
      key: {{ .Values.apiKeys.key }}
{{- if eq .Values.storage.backend "postgres" }}
- name: POSTGRES_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.storage.postgres.existingSecret }}
      key: {{ .Values.storage.postgres.key }}
{{- end }}
{{- with .Values.audit }}
{{- if .existingSecret }}
- name: AGENTMESH_AUDIT_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .key }}
{{- end }}
{{- if .retentionDays }}
- name: AGENTMESH_AUDIT_RETENTION_DAYS
  value: {{ .retentionDays | int64 | quote }}
{{- end }}
{{- end }}
{{- with .Values.storage.blobs.url }}
- name: AGENTMESH_BLOB_URL
  value: {{ . | quote }}
{{- end }}
{{- if .Values.storage.redis.enabled }}
- name: REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.storage.redis.existingSecret }}
      key: {{ .Values.storage.redis.key }}
{{- end }}
{{- end -}}

{{- define "conversation-store.egress" -}}
{{- $ports := list -}}
{{- if eq .Values.storage.backend "postgres" }}{{ $ports = append $ports .Values.storage.postgres.port }}{{ end -}}
{{- if .Values.storage.redis.enabled }}{{ $ports = append $ports .Values.storage.redis.port }}{{ end -}}
{{- if .Values.storage.blobs.url }}{{ $ports = append $ports .Values.storage.blobs.port }}{{ end -}}
{{- if $ports -}}
- ports:
    {{- range $ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with .Values.networkPolicy.databases }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "conversation-store.callees" -}}{{- end -}}
{{- define "conversation-store.annotations" -}}{{- end -}}
{{- define "conversation-store.ports" -}}{{- end -}}
{{- define "conversation-store.ingressPorts" -}}{{- end -}}
{{- define "conversation-store.servicePorts" -}}{{- end -}}
{{- define "conversation-store.mounts" -}}{{- end -}}
{{- define "conversation-store.volumes" -}}{{- end -}}

{{- define "conversation-store.podSecurity" -}}{{ include "agentmesh.podSecurity" . }}{{- end -}}
{{- define "conversation-store.containerSecurity" -}}{{ include "agentmesh.containerSecurity" . }}{{- end -}}

{{- define "conversation-store.storageNote" -}}
{{- if eq .Values.storage.backend "sqlite" -}}
Storage: SQLite on a volume of {{ .Values.storage.sqlite.size }}, one replica. While its pod is moved the API answers UNAVAILABLE, and
runs go on afterwards. For more: storage.backend=postgres.
{{- else -}}
Storage: Postgres, by secret {{ .Values.storage.postgres.existingSecret }}.
{{- if and (not .Values.storage.redis.enabled) (gt (include "agentmesh.leastReplicas" . | int) 1) }} Without Redis, replicas look for each other's events once a second.{{ end }}
{{- end -}}
{{- end -}}

{{/* Takes context, store (name of its workload), backend. */}}
{{- define "conversation-store.keyNote" -}}
Make an API key; without one the gateway refuses everybody:
  kubectl --namespace {{ .context.Release.Namespace }} exec {{ ternary "statefulset" "deployment" (eq .backend "sqlite") }}/{{ .store }} -- \
    agentmesh-store keys create --tenant default --role admin
{{- end -}}
