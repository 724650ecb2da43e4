'use strict';
(() => {
    const data = JSON.parse(document.getElementById('data').textContent);
    const charts = [];

    const bytes = (value) => {
        const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
        let unit = 0;
        while (Math.abs(value) >= 1023.95 && unit < units.length - 1) {
            value /= 1024;
            unit += 1;
        }
        return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
    };
    const axisBytes = (value) => bytes(value).replace('.0 ', ' ');
    // Ticks at round numbers of a unit, which powers of ten are not.
    const byteTicks = (largest, ticks) => {
        const unit = 1024 ** Math.max(0, Math.floor(Math.log(largest / ticks) / Math.log(1024)));
        const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1024].map((step) => step * unit);
        const interval = steps.find((step) => step * ticks >= largest) || steps.at(-1);
        return { interval, max: Math.max(1, Math.ceil(largest / interval)) * interval };
    };
    const largestOf = (rows, value) => rows.reduce((largest, row) => Math.max(largest, value(row)), 0);
    const count = (value) => value.toLocaleString('en');
    // The middle goes: names differ at their ends.
    const shortened = (text, length) => {
        const characters = [...text];
        if (characters.length <= length) return text;
        const half = Math.floor((length - 1) / 2);
        return `${characters.slice(0, half).join('')}…${characters.slice(-half).join('')}`;
    };

    const theme = () => {
        const style = getComputedStyle(document.documentElement);
        const value = (name) => style.getPropertyValue(name).trim();
        return {
            card: value('--card'),
            ink: value('--ink'),
            soft: value('--soft'),
            line: value('--line'),
            shared: value('--shared'),
            series: value('--series').split(' '),
            scale: value('--scale').split(' '),
            font: getComputedStyle(document.body).fontFamily,
        };
    };

    // Drawn as part of the picture: the policy of the page forbids styles in HTML, and text of
    // others' making should not become any.
    const tooltip = (look, more) => ({
        renderMode: 'richText',
        confine: true,
        backgroundColor: look.card,
        borderColor: look.line,
        borderWidth: 1,
        textStyle: { color: look.ink, fontFamily: look.font, fontSize: 12 },
        ...more,
    });
    const legend = (look, names) => ({
        data: names,
        bottom: 0,
        icon: 'roundRect',
        itemWidth: 10,
        itemHeight: 10,
        textStyle: { color: look.soft, fontFamily: look.font },
    });
    const base = (look) => ({
        animation: false,
        aria: { enabled: true },
        textStyle: { fontFamily: look.font, color: look.ink },
    });
    const names = (look, rows, length) => ({
        type: 'category',
        inverse: true,
        data: rows.map((row) => row.name),
        axisLine: { show: false },
        axisTick: { show: false },
        axisLabel: { color: look.ink, interval: 0, formatter: (name) => shortened(name, length) },
    });
    const values = (look, format, more) => ({
        type: 'value',
        splitNumber: 4,
        splitLine: { lineStyle: { color: look.line } },
        axisLabel: { color: look.soft, formatter: format, hideOverlap: true },
        ...more,
    });
    const grid = { left: 4, right: 20, top: 8, bottom: 34, outerBoundsMode: 'same', outerBoundsContain: 'axisLabel' };
    // Names take a third of the room at most.
    const nameLength = (width) => Math.max(14, Math.floor(width / 22));

    // The options of each chart, for its look and width; none if there is nothing to draw.
    const options = {
        storage(look, width, height) {
            let next = 0;
            const total = data.storage.reduce((sum, node) => sum + node.value, 0);
            // What does not fit is left to the tooltip.
            const label = ({ name, value }) => {
                const room = (value / total) * width * height;
                if (room < 2600) return '';
                return room < 6000 ? name : `${name}\n${bytes(value).replace(/^(\d{3,})\.\d/, '$1')}`;
            };
            const colored = data.storage.map((node) => {
                const color = node.shared ? look.shared : look.series[next++ % look.series.length];
                const children = (node.children || []).map((child) => ({
                    ...child,
                    itemStyle: { color: child.shared ? look.shared : color, borderColor: 'rgba(255, 255, 255, 0.35)' },
                }));
                return { ...node, itemStyle: { color, borderColor: children.length ? color : look.card }, children };
            });
            return data.storage.length && {
                ...base(look),
                tooltip: tooltip(look, {
                    formatter: ({ treePathInfo, value }) => {
                        const path = treePathInfo.slice(1).map((node) => shortened(node.name, 48));
                        return `${path.join(' / ')}\n${bytes(value)}`;
                    },
                }),
                series: [{
                    type: 'treemap',
                    data: colored,
                    left: 0,
                    right: 0,
                    top: 0,
                    bottom: 0,
                    roam: false,
                    nodeClick: false,
                    breadcrumb: { show: false },
                    label: {
                        color: '#fff',
                        fontSize: 12,
                        lineHeight: 17,
                        padding: 3,
                        position: 'insideTopLeft',
                        overflow: 'truncate',
                        formatter: label,
                    },
                    upperLabel: {
                        show: true,
                        height: 24,
                        color: '#fff',
                        fontSize: 12,
                        fontWeight: 600,
                        padding: [0, 4],
                        overflow: 'truncate',
                        formatter: ({ name, value }) => `${name}  ${bytes(value)}`,
                    },
                    levels: [
                        { itemStyle: { gapWidth: 3, borderWidth: 0, borderColor: look.card }, upperLabel: { show: false } },
                        { itemStyle: { gapWidth: 0, borderWidth: 1 } },
                        { itemStyle: { gapWidth: 0, borderWidth: 0.5 } },
                    ],
                }],
            };
        },
        sharing(look, width) {
            const series = [
                ['Without sharing', 'logical', look.shared],
                ['Layers', 'layers', look.series[0]],
                ['Exclusive', 'exclusive', look.series[1]],
            ];
            return data.sharing.length && {
                ...base(look),
                tooltip: tooltip(look, { trigger: 'axis', axisPointer: { type: 'shadow' }, valueFormatter: bytes }),
                legend: legend(look, series.map(([name]) => name)),
                grid,
                xAxis: values(look, axisBytes, byteTicks(largestOf(data.sharing, (row) => Math.max(row.logical, row.layers)), 4)),
                yAxis: names(look, data.sharing, nameLength(width)),
                series: series.map(([name, key, color]) => ({
                    name,
                    type: 'bar',
                    barGap: '0%',
                    barCategoryGap: '28%',
                    barMaxWidth: 12,
                    itemStyle: { color, borderRadius: [0, 2, 2, 0] },
                    data: data.sharing.map((row) => row[key]),
                })),
            };
        },
        // The sum above, the days below: two scales on one pair of axes mislead.
        growth(look) {
            const days = (name, color, value) => ({
                name,
                type: 'bar',
                stack: 'day',
                xAxisIndex: 1,
                yAxisIndex: 1,
                barMaxWidth: 14,
                itemStyle: { color },
                data: data.growth.map((row) => [row.day, value(row)]),
            });
            const time = (gridIndex, more) => ({
                type: 'time',
                gridIndex,
                // One scale for both, and room for the bars at its ends.
                min: data.growth[0].day,
                max: data.growth.at(-1).day,
                axisLine: { lineStyle: { color: look.line } },
                axisTick: { show: false },
                axisLabel: { color: look.soft, hideOverlap: true },
                ...more,
            });
            const pushed = byteTicks(largestOf(data.growth, (row) => Math.max(row.pushed, row.removed)), 2);
            const removed = largestOf(data.growth, (row) => row.removed);
            const size = { left: 76, right: 20 };
            return data.growth.length > 1 && {
                ...base(look),
                tooltip: tooltip(look, { trigger: 'axis', valueFormatter: (value) => bytes(Math.abs(value)) }),
                axisPointer: { link: [{ xAxisIndex: 'all' }] },
                legend: legend(look, ['Sum', 'Pushed', 'Removed']),
                grid: [{ ...size, top: 8, height: '42%' }, { ...size, top: '52%', bottom: 56 }],
                xAxis: [time(0, { axisLabel: { show: false } }), time(1)],
                yAxis: [
                    values(look, axisBytes, byteTicks(largestOf(data.growth, (row) => row.total), 3)),
                    values(look, (value) => axisBytes(Math.abs(value)), {
                        ...pushed,
                        min: -Math.ceil(removed / pushed.interval) * pushed.interval,
                        gridIndex: 1,
                    }),
                ],
                series: [
                    {
                        name: 'Sum',
                        type: 'line',
                        step: 'end',
                        showSymbol: false,
                        lineStyle: { color: look.series[1], width: 2 },
                        areaStyle: { color: look.series[1], opacity: 0.15 },
                        itemStyle: { color: look.series[1] },
                        data: data.growth.map((row) => [row.day, row.total]),
                    },
                    days('Pushed', look.series[0], (row) => row.pushed),
                    days('Removed', look.series[3], (row) => -row.removed),
                ],
            };
        },
        usage(look, width) {
            const ages = ['Up to 30 days', '30 to 90', '90 to 365', 'Longer'];
            return data.usage.length && {
                ...base(look),
                tooltip: tooltip(look, { trigger: 'axis', axisPointer: { type: 'shadow' }, valueFormatter: bytes }),
                legend: legend(look, ages),
                grid,
                xAxis: values(look, axisBytes, byteTicks(largestOf(data.usage, (row) => row.bytes.reduce((a, b) => a + b)), 4)),
                yAxis: names(look, data.usage, nameLength(width)),
                series: ages.map((name, index) => ({
                    name,
                    type: 'bar',
                    stack: 'age',
                    barMaxWidth: 18,
                    barCategoryGap: '32%',
                    itemStyle: { color: look.scale[index] },
                    data: data.usage.map((row) => row.bytes[index]),
                })),
            };
        },
        bases(look, width) {
            const kinds = [
                ['In the registry', true, look.series[0]],
                ['Not in the registry', false, look.shared],
            ];
            return data.bases.length && {
                ...base(look),
                tooltip: tooltip(look, { formatter: ({ name, value }) => `${shortened(name, 60)}\n${count(value)} images` }),
                legend: legend(look, kinds.map(([name]) => name)),
                grid,
                xAxis: values(look, count, { minInterval: 1 }),
                yAxis: names(look, data.bases, nameLength(width) + 6),
                series: kinds.map(([name, known, color]) => ({
                    name,
                    type: 'bar',
                    stack: 'kind',
                    barMaxWidth: 18,
                    barCategoryGap: '32%',
                    itemStyle: { color, borderRadius: [0, 2, 2, 0] },
                    data: data.bases.map((row) => (row.known === known ? row.images : null)),
                })),
            };
        },
        findings(look, width) {
            const severities = [
                ['high', look.series[3]],
                ['medium', look.series[2]],
                ['low', look.series[0]],
                ['info', look.shared],
            ];
            return data.findings.length && {
                ...base(look),
                tooltip: tooltip(look, { formatter: ({ name, value }) => `${name}\n${count(value)} commands` }),
                legend: legend(look, severities.map(([severity]) => severity)),
                grid,
                xAxis: values(look, count, { minInterval: 1 }),
                yAxis: names(look, data.findings, nameLength(width) + 6),
                series: severities.map(([severity, color]) => ({
                    name: severity,
                    type: 'bar',
                    stack: 'severity',
                    barMaxWidth: 18,
                    barCategoryGap: '32%',
                    itemStyle: { color, borderRadius: [0, 2, 2, 0] },
                    data: data.findings.map((row) => (row.severity === severity ? row.commands : null)),
                })),
            };
        },
    };

    const draw = () => {
        const look = theme();
        for (const { element, chart } of charts) {
            const { clientWidth, clientHeight } = element;
            chart.setOption(options[element.dataset.chart](look, clientWidth, clientHeight), true);
        }
    };

    const startCharts = () => {
        document.documentElement.classList.add('scripted');
        for (const element of document.querySelectorAll('[data-chart]')) {
            if (!options[element.dataset.chart](theme(), element.clientWidth)) {
                element.remove();
                continue;
            }
            charts.push({ element, chart: echarts.init(element, null, { renderer: 'svg' }) });
        }
        draw();
        matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
        let width = document.documentElement.clientWidth;
        addEventListener('resize', () => {
            if (width === document.documentElement.clientWidth) return;
            width = document.documentElement.clientWidth;
            for (const { chart } of charts) chart.resize();
            draw();
        });
    };

    const sortBy = (table, column, heading) => {
        const isNumber = heading.classList.contains('number');
        // Numbers from the largest, names from the first.
        const first = isNumber ? 'descending' : 'ascending';
        const second = isNumber ? 'ascending' : 'descending';
        const order = heading.getAttribute('aria-sort') === first ? second : first;
        const sign = order === 'ascending' ? 1 : -1;
        const key = (row) => row.cells[column].dataset.key;
        const compare = (one, other) => {
            const [a, b] = [key(one), key(other)];
            // Nothing comes last, whichever way.
            if (a === '' || b === '') return (a === '') - (b === '');
            return sign * (isNumber ? a - b : a.localeCompare(b, 'en', { numeric: true }));
        };
        const body = table.tBodies[0];
        body.append(...[...body.rows].sort(compare));
        for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort');
        heading.setAttribute('aria-sort', order);
    };

    // What a cell holds, not how it is written: numbers without units, whole digests.
    const valueOf = (cell) => cell.classList.contains('number') || cell.classList.contains('code')
        ? cell.dataset.key || cell.textContent
        : cell.textContent;
    // RFC 4180. An apostrophe keeps spreadsheets from running text as a formula.
    const csvCell = (value, isNumber) => {
        const text = !isNumber && /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
        return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const saveCsv = (table, title) => {
        const line = (row) => [...row.cells]
            .map((cell) => csvCell(valueOf(cell), cell.classList.contains('number')))
            .join(',');
        const rows = [table.tHead.rows[0], ...table.tBodies[0].rows].map(line);
        // The byte order mark tells Excel that the file is UTF-8.
        const blob = new Blob(['\ufeff', rows.join('\r\n'), '\r\n'], { type: 'text/csv' });
        const link = document.createElement('a');
        link.href = URL.createObjectURL(blob);
        link.download = `${title.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-')}.csv`;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    };
    const search = (table, text) => {
        const words = text.toLowerCase().split(/\s+/).filter(Boolean);
        for (const row of table.tBodies[0].rows) {
            const content = row.textContent.toLowerCase();
            row.hidden = !words.every((word) => content.includes(word));
        }
    };
    const addTools = (table) => {
        const region = table.parentElement;
        const title = region.getAttribute('aria-label');
        const tools = document.createElement('div');
        tools.className = 'tools';
        if (table.tBodies[0].rows.length > 10) {
            const field = document.createElement('input');
            field.type = 'search';
            field.placeholder = 'Search';
            field.setAttribute('aria-label', `Search in ${title}`);
            field.addEventListener('input', () => search(table, field.value));
            tools.append(field);
        }
        const button = document.createElement('button');
        button.type = 'button';
        button.textContent = 'CSV';
        button.title = `Save ${title} as CSV`;
        button.addEventListener('click', () => saveCsv(table, title));
        tools.append(button);
        region.before(tools);
    };

    const startTables = () => {
        for (const table of document.querySelectorAll('table')) {
            addTools(table);
            [...table.tHead.rows[0].cells].forEach((heading, column) => {
                const button = document.createElement('button');
                button.type = 'button';
                button.textContent = heading.textContent;
                button.addEventListener('click', () => sortBy(table, column, heading));
                heading.replaceChildren(button);
            });
        }
    };

    startTables();
    startCharts();
})();
