{{- define "agent-runtime.callers" -}}gateway{{- end -}}
{{- define "agent-runtime.callees" -}}conversation-store tool-runner{{- end -}}

{{- define "agent-runtime.environment" -}}
{{ include "agentmesh.storeAddress" . }}
{{ include "agentmesh.toolRunnerAddress" . }}
{{- with .Values.model.existingSecret }}
- name: OPENAI_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.model.secretKey }}
{{- end }}
{{- with .Values.model.baseUrl }}
- name: OPENAI_BASE_URL
  value: {{ . | quote }}
{{- end }}
- name: DEFAULT_MODEL
  value: {{ .Values.model.name | quote }}
- name: TEMPERATURE
  value: {{ .Values.model.temperature | quote }}
- name: MAX_TOKENS
  value: {{ .Values.model.maxTokens | int64 | quote }}
- name: AUTOGEN_TIMEOUT
  value: {{ .Values.turns.timeoutSeconds | int64 | quote }}
{{- if include "agent-runtime.agentsConfigMap" . }}
- name: AGENTMESH_AGENTS_FILE
  value: /etc/agentmesh/agents/agents.yaml
{{- end }}
{{- if include "agent-runtime.modelsConfigMap" . }}
- name: AGENTMESH_MODELS_FILE
  value: /etc/agentmesh/models/models.yaml
{{- end }}
{{- end -}}

{{- define "agent-runtime.agentsConfigMap" -}}
{{- if and .Values.agents .Values.agentsConfigMap -}}
{{- fail "agent-runtime: agents and agentsConfigMap exclude each other" -}}
{{- end -}}
{{- if .Values.agents }}{{ include "agentmesh.fullname" . }}-agents{{ else }}{{ .Values.agentsConfigMap }}{{ end -}}
{{- end -}}

{{- define "agent-runtime.modelsConfigMap" -}}
{{- if and .Values.modelProfiles .Values.modelProfilesConfigMap -}}
{{- fail "agent-runtime: modelProfiles and modelProfilesConfigMap exclude each other" -}}
{{- end -}}
{{- if .Values.modelProfiles }}{{ include "agentmesh.fullname" . }}-models{{ else }}{{ .Values.modelProfilesConfigMap }}{{ end -}}
{{- end -}}

{{- define "agent-runtime.volume" -}}{{- end -}}
{{- define "agent-runtime.mounts" -}}
{{- if include "agent-runtime.agentsConfigMap" . -}}
- name: agents
  mountPath: /etc/agentmesh/agents
  readOnly: true
{{- end -}}
{{- if include "agent-runtime.modelsConfigMap" . }}
- name: models
  mountPath: /etc/agentmesh/models
  readOnly: true
{{- end -}}
{{- end -}}

{{- define "agent-runtime.volumes" -}}
{{- with (include "agent-runtime.agentsConfigMap" .) -}}
- name: agents
  configMap:
    name: {{ . }}
{{- end -}}
{{- with (include "agent-runtime.modelsConfigMap" .) }}
- name: models
  configMap:
    name: {{ . }}
{{- end -}}
{{- end -}}

{{/* Definitions are read at the start: other ones need other pods. */}}
{{- define "agent-runtime.annotations" -}}
{{- with .Values.agents -}}
checksum/agents: {{ toYaml . | sha256sum }}
{{- end -}}
{{- with .Values.modelProfiles }}
checksum/models: {{ toYaml . | sha256sum }}
{{- end -}}
{{- end -}}

{{- define "agent-runtime.egress" -}}
{{- with .Values.networkPolicy.modelServers -}}
- to:
    {{- toYaml . | nindent 4 }}
  ports:
    - {protocol: TCP, port: 443}
{{- end -}}
{{- end -}}

{{- define "agent-runtime.ports" -}}{{- end -}}
{{- define "agent-runtime.ingressPorts" -}}{{- end -}}
{{- define "agent-runtime.servicePorts" -}}{{- end -}}

{{- define "agent-runtime.podSecurity" -}}{{ include "agentmesh.podSecurity" . }}{{- end -}}
{{- define "agent-runtime.containerSecurity" -}}{{ include "agentmesh.containerSecurity" . }}{{- end -}}

{{- define "agent-runtime.modelNote" -}}
{{- if .Values.model.existingSecret -}}
Models: {{ .Values.model.baseUrl | default "OpenAI" }}, with the key of secret {{ .Values.model.existingSecret }}.
{{- else -}}
Models: none is configured, so agents are played by the built-in `scripted` model. For a real one:
  kubectl --namespace {{ .Release.Namespace }} create secret generic openai --from-literal=openai-api-key=...
  and model.existingSecret=openai in the agent-runtime's values.
{{- end -}}
{{- end -}}
