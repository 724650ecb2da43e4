"""The rules for Jobs and their pods that .ci/check-deploy applies.

Pods follow the `restricted` profile of
https://kubernetes.io/docs/concepts/security/pod-security-standards/, Jobs the rules that the API server
has for them. Jobs treat each exit code of src/exit.rs on purpose, and refer only to keys of
secret.example.yaml.
"""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
EXIT_CODES = {int(code) for code in re.findall(r"^    \w+ = (\d+), \w+, \d+, ", (ROOT / "src/exit.rs").read_text(), re.M)}
VERSION = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
EXAMPLES = list(yaml.safe_load_all((ROOT / "deploy/kubernetes/secret.example.yaml").read_text()))
SECRETS = {secret["metadata"]["name"]: set(secret["stringData"]) for secret in EXAMPLES}

problems = []


def expect(condition, where, what):
    if not condition:
        problems.append(f"{where}: {what}")


def check_job(job, where):
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    environment = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
    is_indexed = job.get("completionMode") == "Indexed"
    check_pod(pod, where)
    check_secrets(pod, where)

    treated = exit_codes_by_action(job, where)
    listed = [code for codes in treated.values() for code in codes]
    expect(len(listed) == len(set(listed)), where, "podFailurePolicy names an exit code twice")
    expect(set(listed) <= EXIT_CODES - {0}, where, "podFailurePolicy names a code that src/exit.rs has not")
    if container["args"][0] == "sync":
        expect(set(listed) == EXIT_CODES - {0}, where, "podFailurePolicy leaves out a code of src/exit.rs")
        # The program has to end by itself before it is ended.
        own = seconds(environment["SWR_SYNC_JITTER"]) + seconds(environment["SWR_SYNC_MAX_DURATION"])
        expect(own < job["activeDeadlineSeconds"], where, "the Job is over before the run has to be")
    expect(pod["restartPolicy"] == "Never", where, "podFailurePolicy needs restartPolicy: Never")
    expect("FailIndex" not in treated or "backoffLimitPerIndex" in job, where, "FailIndex needs backoffLimitPerIndex")
    expect(is_indexed or "backoffLimitPerIndex" not in job, where, "backoffLimitPerIndex needs Indexed")
    expect("backoffLimit" not in job or "backoffLimitPerIndex" not in job, where, "one share's tries end all")
    shard = environment.get("SWR_SYNC_SHARD")
    expected = f"auto/{job['completions']}" if is_indexed else None
    expect(shard == expected, where, f"SWR_SYNC_SHARD is {shard}, and completions ask for {expected}")


def exit_codes_by_action(job, where):
    """The codes of podFailurePolicy; also checks that a disruption is not counted."""
    treated, is_disruption_ignored = {}, False
    for rule in job["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            match = rule["onExitCodes"]
            names = [container["name"] for container in job["template"]["spec"]["containers"]]
            expect(match["containerName"] in names, where, f"no container {match['containerName']}")
            expect(match["operator"] == "In", where, "codes are to be listed one by one")
            expect(match["values"] == sorted(set(match["values"])), where, "values must ascend")
            treated.setdefault(rule["action"], []).extend(match["values"])
        else:
            conditions = [condition["type"] for condition in rule["onPodConditions"]]
            is_disruption_ignored |= rule["action"] == "Ignore" and conditions == ["DisruptionTarget"]
    expect(is_disruption_ignored, where, "a drained node counts as a failure")
    return treated


def check_pod(pod, where):
    context = pod["securityContext"]
    expect(context.get("runAsNonRoot") is True, where, "runAsNonRoot")
    expect(context.get("runAsUser") == context.get("runAsGroup") == 65532, where, "user and group of the image")
    expect(context.get("seccompProfile") == {"type": "RuntimeDefault"}, where, "seccompProfile")
    expect(not any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")), where, "a host namespace")
    expect(pod.get("automountServiceAccountToken") is False, where, "a token for the Kubernetes API")
    expect(pod.get("enableServiceLinks") is False, where, "variables of Services may become settings")
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        expect(kinds <= {"configMap", "secret", "emptyDir", "projected"}, where, f"volume of kind {kinds}")
        if "secret" in volume:
            expect(volume["secret"].get("defaultMode", 0o644) & 0o007 == 0, where, "secrets that all may read")
    for container in pod["containers"] + pod.get("initContainers", []):
        context = container["securityContext"]
        expect(context.get("allowPrivilegeEscalation") is False, where, "allowPrivilegeEscalation")
        expect(context.get("readOnlyRootFilesystem") is True, where, "readOnlyRootFilesystem")
        expect(context.get("capabilities") == {"drop": ["ALL"]}, where, "capabilities")
        expect(not context.get("privileged"), where, "privileged")
        resources = container["resources"]
        expect({"cpu", "memory"} <= set(resources["requests"]), where, "requests")
        expect("memory" in resources["limits"], where, "limit of memory")
        expect(container["image"].endswith(f":{VERSION}"), where, f"{container['image']} is not of version {VERSION}")


def check_secrets(pod, where):
    """Everything asked of Secrets is in the example, and every file of them that is named is mounted."""
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    files = set()
    for volume in pod["volumes"]:
        if "secret" in volume:
            known = SECRETS[volume["secret"]["secretName"]]
            items = volume["secret"].get("items") or [{"key": key, "path": key} for key in known]
            expect({item["key"] for item in items} <= known, where, "secret.example.yaml lacks a key")
            files |= {f"{mounts[volume['name']]}/{item['path']}" for item in items}
    for variable in container["env"]:
        if variable["name"].endswith("_FILE"):
            expect(variable["value"] in files, where, f"{variable['name']} names a file that is not mounted")
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference:
            expect(reference["key"] in SECRETS[reference["name"]], where, "secret.example.yaml lacks a key")


def seconds(time):
    number, unit = re.fullmatch(r"(\d+)([smh])", time).groups()
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]
